"""verify_slice(): a bank is checked in many short calls, each of its own moment, and none of them reads much."""

from collections import Counter

import pytest

from tests.conftest import Bank, Connection
from tests.helpers import (
    WAY_IDS,
    WAYS,
    Row,
    Way,
    authorise,
    call,
    call_all,
    open_account,
    raises,
    violations,
    violations_of_slices,
)

SIZES = [1, 2, 3, 7]


def slices(connection: Connection, rows_max: int, ledger_id: int | None = 1) -> list[Row]:
    """Return the result of each call, from the beginning to the end."""
    made = [call(connection, "verify_slice", None, rows_max, ledger_id)]
    while made[-1]["next_place"] is not None:
        made.append(call(connection, "verify_slice", made[-1]["next_place"], rows_max, ledger_id))
    return made


def small_bank(app: Connection) -> tuple[int, int]:
    """Two accounts with five transfers between them, beside the credits: versions 1 to 6."""
    ada, bob = open_account(app, 500), open_account(app, 500)
    for _ in range(5):
        call(app, "transfer", ada, bob, 10)
    return ada, bob


@pytest.mark.parametrize("rows_max", [*SIZES, 100, 2_147_483_647])
def test_every_row_is_checked_once_whatever_the_size_of_a_slice(app: Connection, rows_max: int) -> None:
    small_bank(app)
    call(app, "transfer", 2, 3, 9999)
    made = slices(app, rows_max)
    assert [sum(part[name] for part in made) for name in ("account_count", "entry_count", "transaction_count")] == [
        3, 14, 8,
    ]  # fmt: skip
    assert all(part["violations"] == [] for part in made)
    assert all(max(part["account_count"], part["entry_count"], part["transaction_count"]) <= rows_max for part in made)
    assert sum(bool(part["entry_count"]) for part in made) == -(-14 // rows_max)


@pytest.mark.parametrize("rows_max", SIZES)
@pytest.mark.parametrize("version", range(1, 7))
@pytest.mark.parametrize(
    "tampering",
    [
        "update bank.entry set balance_after_minor = balance_after_minor + 1 where (account_id, version) = (2, {0})",
        "update bank.entry set amount_minor = amount_minor + 1 where (account_id, version) = (2, {0})",
        "delete from bank.entry where (account_id, version) = (2, {0})",
        "update bank.entry set created_at = '2000-01-01' where (account_id, version) = (2, {0})",
        "delete from bank.transaction where debit_account_id = 2 and debit_version = {0}",
        "update bank.transaction set amount_minor = 11 where debit_account_id = 2 and debit_version = {0}",
    ],
)
def test_every_place_in_a_chain_is_checked_wherever_slices_begin_and_end(
    app: Connection, owner: Connection, tampering: str, version: int, rows_max: int
) -> None:
    small_bank(app)
    owner.execute(tampering.format(version).encode())

    def told(rows: list[Row]) -> list[tuple[object, ...]]:
        return sorted((row["violation"], row["account_id"] or 0, row["version"] or 0) for row in rows)

    assert told(violations_of_slices(app, rows_max)) == told(violations(app))


@pytest.mark.parametrize("rows_max", SIZES)
def test_what_is_posted_between_two_slices_is_no_violation(app: Connection, rows_max: int) -> None:
    """Of every kind: accounts opened, chains grown, holds captured, transactions reversed."""
    ada, bob = small_bank(app)
    hot = open_account(app, overdraft_limit_minor=None)
    call(app, "stripe_account", hot, 2)
    posted: Counter[str] = Counter()
    place = "accounts:1"
    while place is not None:
        part = place.partition(":")[0]
        if posted[part] < 8:
            posted[part] += 1
            hold = authorise(app, ada, 2, bob)
            call(app, "capture", hold, 1)
            paid = call(app, "transfer", bob, hot, 3)["transaction_id"]
            call(app, "reverse", paid, 1)
            call(app, "post_legs", [ada, bob, hot], [-2, 1, 1])
            call(app, "open_account", "Eve", "EUR", idempotency_key=f"eve-{posted.total()}")
        checked = call(app, "verify_slice", place, rows_max, None)
        assert checked["violations"] == []
        place = checked["next_place"]
    assert set(posted) == {"accounts", "entries", "transactions", "openings", "sequences"}
    assert violations_of_slices(app, rows_max) == []


def test_a_transaction_with_a_lower_id_may_commit_after_its_slice(bank: Bank, app: Connection) -> None:
    """Ids are drawn before the commit, and slices by them pass one that is not there yet."""
    ada, bob = small_bank(app)
    with bank.connect() as late, late.transaction():
        call(late, "transfer", ada, bob, 1)
        eve, zoe = open_account(app, 5), open_account(app)
        call(app, "transfer", eve, zoe, 1)
        made = [call(app, "verify_slice", "transactions:1", 3)]
        while made[-1]["next_place"].startswith("transactions:1:"):
            made.append(call(app, "verify_slice", made[-1]["next_place"], 3))
    assert all(part["violations"] == [] for part in made)
    assert violations_of_slices(app, 3) == []


def test_ledgers_are_gone_through_one_after_another_also_those_that_do_not_exist(
    app: Connection, owner: Connection
) -> None:
    small_bank(app)
    other = call(owner, "create_ledger", "Branch")["ledger_id"]
    theirs = open_account(app, 100, ledger_id=other)
    owner.execute("update bank.account set version = 9 where account_id = %s", [theirs])
    owner.execute("insert into bank.entry values (99, 1, 1, 1, 5, 5, now())")
    owner.execute(
        "insert into bank.hold (ledger_id, hold_id, account_id, amount_minor, hold_status, ended_at)"
        " values (98, 1, 1, 1, 'voided', now())"
    )
    for rows_max in (1, 100):
        found = violations_of_slices(app, rows_max)
        assert {(row["ledger_id"], row["violation"]) for row in found} == {
            (other, "account_differs_from_last_entry"),
            (98, "hold_differs"),
            (99, "entry_without_transaction"),
            (99, "account_missing"),
        }
        assert {(row["ledger_id"], row["violation"]) for row in violations(app)} == {
            (row["ledger_id"], row["violation"]) for row in found
        }
    assert violations_of_slices(app, 2, 1) == []


@pytest.mark.parametrize("verify", WAYS, ids=WAY_IDS)
def test_the_lowest_ids_that_there_can_be_are_checked(app: Connection, owner: Connection, verify: Way) -> None:
    lowest = -(2**63)
    small_bank(app)
    owner.execute("insert into bank.ledger (ledger_id, name) values (%s, 'Branch')", [lowest])
    for ledger_id in (lowest, 1):
        place = [ledger_id, lowest]
        owner.execute(
            "insert into bank.account (ledger_id, account_id, holder_name, currency, balance_minor)"
            " values (%s, %s, 'Ada', 'EUR', 7)",
            place,
        )
        owner.execute("insert into bank.entry values (%s, %s, %s, 99, 5, 5, now())", [*place, lowest])
        owner.execute(
            "insert into bank.transaction (ledger_id, transaction_id, debit_account_id, credit_account_id,"
            " amount_minor, created_at, transaction_type, transaction_status, currency, failure_code)"
            " values (%s, %s, 98, 98, 1, now(), 'transfer', 'failure', 'EUR', 'x')",
            place,
        )
        owner.execute(
            "insert into bank.hold (ledger_id, hold_id, account_id, amount_minor, hold_status, ended_at)"
            " values (%s, %s, 97, 1, 'voided', now())",
            place,
        )
    found = {
        (row["ledger_id"], row["violation"], row["account_id"], row["transaction_id"], row["version"])
        for row in verify(app)
        if row["violation"] != "currency_does_not_sum_to_zero"
    }
    assert found == {
        each
        for ledger_id in (lowest, 1)
        for each in [
            (ledger_id, "account_differs_from_last_entry", lowest, 99, 0),
            (ledger_id, "version_gap", lowest, 99, lowest),
            (ledger_id, "entry_without_transaction", lowest, 99, lowest),
            (ledger_id, "account_missing", 98, lowest, None),
            (ledger_id, "hold_differs", 97, lowest, None),
        ]
    }


def test_an_opening_without_its_account_and_a_sequence_behind_are_found(app: Connection, owner: Connection) -> None:
    for key in ("a", "b: c", "d"):
        call(app, "open_account", "Ada", "EUR", idempotency_key=key)
    owner.execute("update bank.opening set account_id = 99 where idempotency_key = 'b: c'")
    owner.execute("select setval('bank.account_account_id_seq', 1)")
    for rows_max in (1, 2, 100):
        found = violations_of_slices(app, rows_max)
        assert {row["violation"] for row in found} == {"opening_without_account", "sequence_behind"}
        assert sorted(found, key=str) == sorted(violations(app), key=str)


def test_a_key_is_told_from_no_key_whatever_is_in_it(app: Connection, owner: Connection) -> None:
    """The empty key is one too, though no call takes it; so is one of colons, or of lines."""
    keys = ["", ":", "1:", "a\n:b", "\n", "z"]
    for key in keys:
        owner.execute("insert into bank.opening values (1, %s, 99, '{}')", [key])
    for rows_max in (*SIZES, 100):
        found = [row["detail"]["idempotency_key"] for row in violations_of_slices(app, rows_max, 1)]
        assert sorted(found) == sorted(keys)
    for ledger_id in ("1", "01"):
        made = [call(app, "verify_slice", f"openings:{ledger_id}{rest}", 100) for rest in ("", ":", ":y")]
        assert [len(part["violations"]) for part in made] == [6, 5, 1]


@pytest.mark.parametrize(
    "place", ["", "nonsense", "entries", "accounts:", "entries:x", "accounts:1:99999999999999999999", "entries:2:1:1"]
)
def test_a_place_that_is_none_is_refused(app: Connection, place: str) -> None:
    with raises("TLARG", "invalid_argument", "place"):
        call(app, "verify_slice", place)


def test_what_cannot_be_checked_is_refused_in_order(app: Connection) -> None:
    for rows_max in (0, -1, None):
        with raises("TLARG", "invalid_argument", "rows_max"):
            call(app, "verify_slice", None, rows_max, 99)
    with raises("TLLED", "ledger_not_found", "ledger_id"):
        call(app, "verify_slice", ledger_id=99)


def test_a_slice_of_one_hot_account_reads_no_more_than_its_rows(app: Connection, owner: Connection) -> None:
    """Counted are rows of each table that a slice in the middle of a long chain reads."""
    hot, other = (open_account(app, overdraft_limit_minor=None) for _ in range(2))
    for _ in range(4):
        call_all(app, "post_transfers", [hot] * 1000, [other] * 1000, [1] * 1000)
    reads = "select relname, seq_tup_read + idx_tup_fetch as n from pg_stat_xact_user_tables where schemaname = 'bank'"
    for analyzed in (False, True):
        if analyzed:
            owner.execute("analyze bank.entry, bank.transaction, bank.account")
        for place in (f"entries:1:{hot}:3000", "transactions:1:3000"):
            with app.transaction():
                assert call(app, "verify_slice", place, 50)["violations"] == []
                for row in app.execute(reads).fetchall():
                    assert row["n"] <= 1000, (analyzed, place, row)
