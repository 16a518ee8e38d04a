"""What a bank with data has after an upgrade. What is rolled back and migrated again stands for an older bank."""

from typing import Any

import pytest

from service import migrate as migrate_module
from service.installation import sql_digest
from service.migrate import migrate
from tests.conftest import Bank, Connection
from tests.helpers import authorise, call, open_account, raises, violations
from tests.migrations.test_migrate import roll_back_to_before


def requests_and_reversals(owner: Connection) -> dict[int, tuple[Any, Any]]:
    rows = owner.execute("select transaction_id, request, reversed_minor from bank.transaction").fetchall()
    return {row["transaction_id"]: (row["request"], row["reversed_minor"]) for row in rows}


def test_requests_and_reversals_are_filled_in_from_what_was_recorded(bank: Bank) -> None:
    with bank.connect() as app, bank.connect("bank_owner") as owner:
        branch = call(owner, "create_ledger", "Branch")["ledger_id"]
        ada, bob, yen = open_account(app, 1000), open_account(app), open_account(app, currency="JPY")
        zoe = open_account(app, ledger_id=branch)
        part, whole, kept = (call(app, "transfer", ada, bob, 50)["transaction_id"] for _ in range(3))
        legs = call(app, "post_legs", [ada, bob], [-20, 20], idempotency_key="legs")["transaction_id"]
        call(app, "reverse", part, 20)
        call(app, "reverse", part, 10)
        call(app, "reverse", whole, idempotency_key="whole")
        call(app, "reverse", legs)
        assert call(app, "reverse", kept, 51)["failure_code"] == "reversal_exceeds_original"
        exchanged = call(app, "exchange", ada, yen, 20, 163)["transaction_id"]
        assert call(app, "reverse", exchanged)["amount_minor"] != 20  # yens, of which the original says nothing
        hold = authorise(
            app, ada, 100, bob, tolerance_minor=5, expires_at="2100-01-01T00:00:00Z", idempotency_key="hold"
        )
        plain, late = (authorise(app, ada, 100, bob) for _ in range(2))
        rejected = call(app, "authorise", ada, 10**6, tolerance_minor=5, idempotency_key="rejected")["transaction_id"]
        captured = call(app, "capture", hold, final=True, idempotency_key="captured")["transaction_id"]
        swept = call(app, "sweep", ada, bob, 7, "swept")["transaction_id"]
        sent = call(app, "transfer_to_ledger", ada, branch, zoe, 5, "sent")["transaction_id"]
        failed = call(app, "transfer_to_ledger", ada, branch, zoe, 10**6, "failed")["transaction_id"]
        before = requests_and_reversals(owner)
        for number, year in ((plain, 9999), (late, 10000)):
            owner.execute(
                f"update bank.hold set expires_at = '{year}-01-01 00:00:00+00' where hold_id = {number}".encode()
            )
    roll_back_to_before(bank.owner_url, "0006.requests")
    migrate(bank.owner_url)

    with bank.connect() as app, bank.connect("bank_owner") as owner:
        after = requests_and_reversals(owner)
        # What was asked stays, so that it can be asked again; the holds themselves are brought forward.
        before[late][0]["expires_at"], before[plain][0]["expires_at"] = "10000-01-01T00:00:00", "9999-01-01T00:00:00"
        known = {part, whole, kept, exchanged, hold, plain, late, sent}
        assert {number: after[number] for number in known} == {number: before[number] for number in known}
        assert {number for number, (request, _) in after.items() if request} == {hold, plain, late, sent, failed}
        assert (after[part][1], after[whole][1], after[legs][1], after[kept][1]) == (30, 50, 20, None)
        assert after[exchanged][1] == 20
        assert {call(app, "hold", number)["expires_at"].year for number in (plain, late)} == {9998}
        assert violations(app) == []
        # They replay as they did before.
        for again, first in (
            (call(app, "reverse", whole, 50, force=True, idempotency_key="whole"), whole),
            (call(app, "post_legs", [ada, bob], [-20, 20], "[]", "legs"), legs),
            (call(app, "authorise", ada, 10**6, tolerance_minor=9, idempotency_key="rejected"), rejected),
            (call(app, "capture", hold, 100, idempotency_key="captured"), captured),
            (call(app, "sweep", ada, bob, None, "swept"), swept),
            (call(app, "transfer", ada, bob, 7, "swept"), swept),
            (call(app, "transfer_to_ledger", ada, branch, zoe, 5, "sent"), sent),
            (call(app, "transfer_to_ledger", ada, branch, zoe, 10**6, "failed"), failed),
        ):
            assert again["replayed"]
            assert first in (again["transaction_id"], again["original_transaction_id"])
        # What is left of a transaction is what was left of it.
        assert call(app, "reverse", part, 21)["failure_code"] == "reversal_exceeds_original"
        assert call(app, "reverse", part)["amount_minor"] == 20
        assert violations(app) == []


def test_a_sweep_and_a_transfer_are_told_apart_from_the_upgrade_on(bank: Bank) -> None:
    with bank.connect() as app:
        ada, bob = open_account(app, 1000), open_account(app)
        call(app, "transfer", ada, bob, 5, "old")
    roll_back_to_before(bank.owner_url, "0006.requests")
    migrate(bank.owner_url)
    with bank.connect() as app:
        call(app, "transfer", ada, bob, 5, "new")
    migrate(bank.owner_url)  # the next upgrade does not begin anew
    with bank.connect() as app:
        assert call(app, "sweep", ada, bob, 5, "old")["replayed"]
        with raises("TLKEY", "idempotency_key_reused", "transaction_type"):
            call(app, "sweep", ada, bob, 5, "new")


def test_a_reversal_under_way_while_the_functions_are_replaced_is_filled_in_before_migrate_ends(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = migrate_module._step
    with (
        bank.connect() as app,
        bank.connect("bank_owner") as owner,
        bank.connect("bank_owner", autocommit=False) as caller,
    ):
        ada, bob = open_account(app, 1000), open_account(app)
        original = call(app, "transfer", ada, bob, 100)["transaction_id"]
        owner.execute("update bank.installation set sql_digest = 'of before'")
        # As functions of before 0006 do: they write nothing into the original.
        call(caller, "reverse", original, 40)
        caller.execute("update bank.transaction set reversed_minor = null where transaction_id = %s", [original])

        def end_it_after_the_functions_are_replaced(*arguments: Any) -> list[str] | None:
            applied = step(*arguments)
            if applied is not None:
                assert owner.execute("select sql_digest from bank.installation").fetchall() == [
                    {"sql_digest": sql_digest()}
                ]
                caller.commit()
                assert requests_and_reversals(owner)[original][1] is None
            return applied

        monkeypatch.setattr(migrate_module, "_step", end_it_after_the_functions_are_replaced)
        assert migrate(bank.owner_url) == []
        assert requests_and_reversals(owner)[original][1] == 40
        assert violations(app) == []
        assert call(app, "reverse", original, 61)["failure_code"] == "reversal_exceeds_original"
        assert call(app, "reverse", original)["amount_minor"] == 60
