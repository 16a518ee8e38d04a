"""Legs and transfers between ledgers lock in one order, whatever order they are written in."""

import pytest

from tests.concurrency.conftest import Sessions, posting
from tests.conftest import Connection
from tests.helpers import balance_of, call, open_account, violations

ADA, BOB, EVE = 2, 3, 4


@pytest.mark.parametrize(
    "post",
    [
        f"post_legs(array[{EVE}, {BOB}, {ADA}], array[-6, 2, 4])",
        f"post_legs(array[{ADA}, {EVE}], array[-4, 4])",
        f"transfer({EVE}, {ADA}, 4)",
        f"post_transfers(array[{EVE}, {BOB}], array[{BOB}, {ADA}], array[1, 1])",
    ],
)
def test_legs_in_opposite_orders_do_not_deadlock(
    sessions: Sessions, app: Connection, accounts: list[int], post: str
) -> None:
    """Who waits for the lowest account holds none above it: the other goes on to them and ends."""
    holder = sessions.holding(f"select bank.credit({ADA}, 1)")
    waiter = sessions.start(f"select * from bank.{post}")
    assert waiter.is_blocked_by(holder)
    assert posting(holder, f"post_legs(array[{ADA}, {BOB}, {EVE}], array[-9, 4, 5])")["failure_code"] is None
    holder.commit()
    assert {row["failure_code"] for row in waiter.rows()} == {None}
    assert violations(app) == []


def test_a_striped_account_is_locked_after_all_others(sessions: Sessions, app: Connection, accounts: list[int]) -> None:
    call(app, "stripe_account", 1, 1)
    holder = sessions.holding(f"select bank.post_legs(array[1, {BOB}], array[-5, 5])")
    waiter = sessions.start(f"select * from bank.post_legs(array[1, {EVE}], array[-5, 5])")
    assert waiter.is_blocked_by(holder)
    blocked = sessions.start(f"select * from bank.transfer({ADA}, {EVE}, 1)")
    assert blocked.is_blocked_by(waiter.connection)
    holder.commit()
    assert waiter.row()["failure_code"] is blocked.row()["failure_code"] is None
    assert violations(app) == []


def test_legs_that_waited_are_judged_by_what_is_so_then(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    holder = sessions.holding(f"select bank.transfer({ADA}, {BOB}, 9000)")
    waiter = sessions.start(f"select * from bank.post_legs(array[{EVE}, {ADA}, {BOB}], array[-1, -1001, 1002])")
    assert waiter.is_blocked_by(holder)
    holder.commit()
    assert waiter.row()["failure_detail"] == {"account_id": ADA, "needed_minor": 1001, "available_minor": 1000}
    assert balance_of(app, EVE) == 10_000
    assert violations(app) == []


def test_a_condition_on_the_version_sees_who_came_first(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    condition = f"""'[{{"account_id": {ADA}, "version": 1}}]'"""
    statement = f"select * from bank.post_legs(array[{ADA}, {BOB}], array[-5, 5], {condition})"
    holder = sessions.holding(statement)
    waiter = sessions.start(statement)
    assert waiter.is_blocked_by(holder)
    holder.commit()
    assert waiter.row()["failure_code"] == "condition_failed"
    assert waiter.row()["failure_detail"]["version_before"] == 2
    assert balance_of(app, ADA) == 9995
    assert violations(app) == []


def test_a_posting_of_legs_that_waited_is_not_earlier_than_its_lock(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    holder = sessions.holding(f"select bank.authorise({ADA}, 5)")
    waiter = sessions.start(f"select * from bank.post_legs(array[{ADA}, {BOB}], array[-5, 5])")
    assert waiter.is_blocked_by(holder)
    (seen,) = app.execute("select clock_timestamp() as at").fetchall()
    holder.commit()
    assert waiter.row()["created_at"] > seen["at"]
    assert violations(app) == []


def test_a_duplicate_of_legs_gets_the_outcome_of_the_first(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    statement = f"select * from bank.post_legs(array[{ADA}, {BOB}, 1], array[-5, 4, 1], idempotency_key => 'key')"
    holder = sessions.idle(autocommit=False)
    first = holder.execute(statement.encode()).fetchone()
    retry = sessions.start(statement)
    assert retry.is_blocked_by(holder)
    holder.commit()
    assert first is not None
    assert retry.row() == {**first, "replayed": True}
    assert violations(app) == []


@pytest.mark.parametrize("first_from", [1, 2])
def test_transfers_to_each_other_s_ledgers_do_not_deadlock(
    sessions: Sessions, app: Connection, owner: Connection, accounts: list[int], first_from: int
) -> None:
    """Both lock in ledger 1 before ledger 2, down to the last stripe of a clearing account."""
    branch = call(owner, "create_ledger", "Branch")["ledger_id"]
    assert branch == 2
    theirs, quiet = (open_account(app, 500, ledger_id=branch) for _ in range(2))
    there = "select * from bank.transfer_to_ledger({}, 2, {}, 5)"
    back = "select * from bank.transfer_to_ledger({}, 1, {}, 7, ledger_id => 2)"
    posting(app, f"transfer_to_ledger({ADA}, 2, {theirs}, 1)")
    for row in owner.execute("select ledger_id, account_id from bank.account where clearing").fetchall():
        call(app, "stripe_account", row["account_id"], 1, row["ledger_id"])

    # In the middle: it has what it locks in ledger 1 and waits in ledger 2.
    gate = sessions.holding(f"select bank.transfer({theirs}, {quiet}, 1, ledger_id => 2)")
    first = sessions.start(there.format(ADA, theirs) if first_from == 1 else back.format(theirs, ADA))
    assert first.is_blocked_by(gate)
    second = sessions.start(back.format(theirs, BOB) if first_from == 1 else there.format(BOB, theirs))
    assert second.is_blocked_by(first.connection)
    gate.commit()
    assert first.row()["failure_code"] is second.row()["failure_code"] is None
    assert violations(app) == []


@pytest.mark.parametrize("waits_for", ["the account", "the clearing account"])
@pytest.mark.parametrize("call_of_it", ["transfer_to_ledger({ada}, 2, {theirs}, 5)",
                                        "transfer_to_ledger({theirs}, 1, {ada}, 5, ledger_id => 2)"])  # fmt: skip
def test_who_waits_in_the_lower_ledger_has_locked_nothing_in_the_higher_one_yet(
    sessions: Sessions, app: Connection, owner: Connection, accounts: list[int], *, waits_for: str, call_of_it: str
) -> None:
    """Else a transfer the other way, which waits in the higher one and holds what this one wants, would deadlock."""
    branch = call(owner, "create_ledger", "Branch")["ledger_id"]
    assert branch == 2
    theirs = open_account(app, 500, ledger_id=branch)
    posting(app, f"transfer_to_ledger({ADA}, 2, {theirs}, 1)")
    clearing = owner.execute("select account_id from bank.account where clearing and ledger_id = 1").fetchall()
    call(app, "stripe_account", clearing[0]["account_id"], 1)
    row_id = str(ADA) if waits_for == "the account" else f"bank._stripe_id({clearing[0]['account_id']}, 0)"
    gate = sessions.holding(
        f"select from bank.account where ledger_id = 1 and account_id = {row_id} for no key update", "bank_owner"
    )
    waiter = sessions.start(f"select * from bank.{call_of_it.format(ada=ADA, theirs=theirs)}")
    assert waiter.is_blocked_by(gate)
    owner.execute("select from bank.account where ledger_id = 2 for no key update nowait")
    gate.rollback()
    assert waiter.row()["failure_code"] is None
    assert violations(app) == []
