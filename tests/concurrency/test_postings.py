"""Postings that meet on an account: the second waits, then decides on what the first one left behind."""

from datetime import datetime

import pytest

from tests.concurrency.conftest import FIXED_SNAPSHOT_LEVELS, Sessions, posting, sqlstate_and_code
from tests.conftest import Connection
from tests.helpers import balance_of, violations

pytestmark = pytest.mark.usefixtures("accounts")


@pytest.mark.parametrize("ends_by", ["commit", "rollback"])
def test_opposite_transfers_wait_for_each_other_instead_of_deadlocking(
    sessions: Sessions, app: Connection, ends_by: str
) -> None:
    first = sessions.holding("select bank.transfer(2, 3, 100)")
    second = sessions.start("select * from bank.transfer(3, 2, 30)")
    assert second.is_blocked_by(first)
    getattr(first, ends_by)()
    assert second.row()["transaction_status"] == "success"
    moved = 100 if ends_by == "commit" else 0
    assert (balance_of(app, 2), balance_of(app, 3)) == (10000 - moved + 30, 10000 + moved - 30)
    assert violations(app) == []


def test_opposite_transfers_take_the_lower_account_first(sessions: Sessions, owner: Connection) -> None:
    """Either way a transfer that waits for account 2 holds nothing of account 3 yet."""
    for call in ("transfer(2, 3, 1)", "transfer(3, 2, 1)"):
        holder = sessions.holding("select from bank.account where account_id = 2 for no key update", "bank_owner")
        waiter = sessions.start(f"select * from bank.{call}")
        assert waiter.is_blocked_by(holder)
        owner.execute("select from bank.account where account_id = 3 for no key update nowait")
        holder.rollback()
        assert waiter.row()["transaction_status"] == "success"


@pytest.mark.parametrize("debit", [2, 3])
@pytest.mark.parametrize("call", ["sweep({debit}, {credit})", "capture({hold})", "void({hold})"])
def test_who_looks_at_two_accounts_before_it_posts_takes_the_lower_one_first_too(
    sessions: Sessions, app: Connection, owner: Connection, debit: int, call: str
) -> None:
    credit = 5 - debit
    hold = posting(app, f"authorise({debit}, 100, {credit})")["transaction_id"]
    holder = sessions.holding("select from bank.account where account_id = 2 for no key update", "bank_owner")
    waiter = sessions.start(f"select * from bank.{call.format(debit=debit, credit=credit, hold=hold)}")
    assert waiter.is_blocked_by(holder)
    owner.execute("select from bank.account where account_id = 3 for no key update nowait")
    holder.rollback()
    assert waiter.row()["transaction_status"] == "success"
    assert violations(app) == []


def test_of_two_debits_of_the_last_cent_one_succeeds_and_the_other_sees_what_it_left(
    sessions: Sessions, app: Connection
) -> None:
    first = sessions.holding("select bank.debit(2, 10000)")
    second = sessions.start("select * from bank.debit(2, 10000)")
    assert second.is_blocked_by(first)
    first.commit()
    rejected = second.row()
    assert rejected["failure_code"] == "insufficient_funds"
    assert rejected["failure_detail"] == {"account_id": 2, "needed_minor": 10000, "available_minor": 0}
    assert rejected["debit_version"] is None
    assert balance_of(app, 2) == 0
    assert violations(app) == []


def test_the_last_cent_is_left_to_the_second_debit_when_the_first_rolls_back(
    sessions: Sessions, app: Connection
) -> None:
    first = sessions.holding("select bank.debit(2, 10000)")
    second = sessions.start("select * from bank.debit(2, 10000)")
    assert second.is_blocked_by(first)
    first.rollback()
    succeeded = second.row()
    assert (succeeded["transaction_status"], succeeded["debit_version"]) == ("success", 2)
    assert balance_of(app, 2) == 0
    assert violations(app) == []


def test_a_debit_spends_the_credit_that_it_waited_for(sessions: Sessions, app: Connection) -> None:
    first = sessions.holding("select bank.credit(2, 1)")
    second = sessions.start("select * from bank.transfer(2, 3, 10001)")
    assert second.is_blocked_by(first)
    first.commit()
    assert second.row()["transaction_status"] == "success"
    assert (balance_of(app, 2), balance_of(app, 3)) == (0, 20001)


def test_a_debit_that_waits_for_a_freeze_is_rejected_once_it_is_committed(sessions: Sessions, app: Connection) -> None:
    freeze = sessions.holding("update bank.account set account_status = 'frozen' where account_id = 2", "bank_owner")
    debit = sessions.start("select * from bank.debit(2, 100)")
    assert debit.is_blocked_by(freeze)
    freeze.commit()
    rejected = debit.row()
    assert (rejected["failure_code"], rejected["failure_detail"]) == ("account_frozen", {"account_id": 2})
    assert balance_of(app, 2) == 10000


def test_a_debit_that_waits_for_a_freeze_succeeds_when_it_is_rolled_back(sessions: Sessions, app: Connection) -> None:
    freeze = sessions.holding("update bank.account set account_status = 'frozen' where account_id = 2", "bank_owner")
    debit = sessions.start("select * from bank.debit(2, 100)")
    assert debit.is_blocked_by(freeze)
    freeze.rollback()
    assert debit.row()["transaction_status"] == "success"
    assert balance_of(app, 2) == 9900


def test_a_freeze_that_waits_for_a_debit_keeps_what_the_debit_did(sessions: Sessions, app: Connection) -> None:
    debit = sessions.holding("select bank.debit(2, 100)")
    freeze = sessions.start(
        "update bank.account set account_status = 'frozen' where account_id = 2 returning balance_minor", "bank_owner"
    )
    assert freeze.is_blocked_by(debit)
    debit.commit()
    assert freeze.row() == {"balance_minor": 9900}
    assert posting(app, "debit(2, 100)")["failure_code"] == "account_frozen"
    assert violations(app) == []


@pytest.mark.parametrize("isolation", ["read committed"])  # elsewhere the waiter is told to begin again
def test_time_never_runs_back_along_an_account_although_the_waiter_began_first(
    sessions: Sessions, app: Connection
) -> None:
    waiter = sessions.idle(autocommit=False)
    began = waiter.execute("select now() as began").fetchall()[0]["began"]
    first = sessions.holding("select bank.transfer(2, 3, 1)")
    second = sessions.start("select * from bank.transfer(3, 2, 1)", on=waiter)
    assert second.is_blocked_by(first)
    first.commit()
    second.rows()
    waiter.commit()
    for account_id in (2, 3):
        lines = app.execute("select created_at from bank.statement(%s)", [account_id]).fetchall()
        times: list[datetime] = [line["created_at"] for line in lines]
        assert times == sorted(times, reverse=True)
        assert times[0] >= times[1] > began
    assert violations(app) == []


def test_time_never_runs_back_along_an_account_although_the_clock_does(app: Connection, owner: Connection) -> None:
    owner.execute("update bank.account set last_entry_at = '2999-01-01 00:00+00' where account_id = 3")
    assert posting(app, "transfer(2, 3, 1)")["created_at"].year < 2999
    assert posting(app, "transfer(3, 4, 1)")["created_at"].year < 2999
    # It stays with the account.
    last_years = {
        account_id: posting(app, f"statement({account_id}, page_size => 1)")["created_at"].year
        for account_id in (2, 3, 4)
    }
    assert last_years[3] == 2999
    assert last_years[2] == last_years[4] < 2999


@pytest.mark.parametrize("isolation", FIXED_SNAPSHOT_LEVELS)
def test_a_waiter_whose_snapshot_is_older_than_what_it_waited_for_is_told_to_retry(
    sessions: Sessions, app: Connection
) -> None:
    """It neither decides on a balance that is gone nor replays a row that it cannot see."""
    for first_call, second_call in (
        ("debit(2, 1)", "debit(2, 1)"),
        ("transfer(2, 3, 1, 'k')", "transfer(4, 5, 1, 'k')"),
    ):
        first = sessions.holding(f"select bank.{first_call}")
        second = sessions.start(f"select * from bank.{second_call}", on=sessions.idle(autocommit=False))
        assert second.is_blocked_by(first)
        first.commit()
        assert sqlstate_and_code(second.rows)[0] == "40001"
    assert violations(app) == []


@pytest.mark.parametrize("isolation", ["read committed"])  # a second each, and a deadlock knows no isolation level
def test_calls_composed_in_opposite_orders_deadlock_and_postgresql_aborts_exactly_one(
    sessions: Sessions, app: Connection
) -> None:
    first = sessions.holding("select bank.transfer(2, 3, 10)")
    second = sessions.holding("select bank.transfer(4, 5, 10)")
    waiting = sessions.start("select * from bank.transfer(4, 5, 1)", on=first)
    assert waiting.is_blocked_by(second)
    closing_the_circle = sessions.start("select * from bank.transfer(2, 3, 1)", on=second)

    states = []
    for call, connection in ((waiting, first), (closing_the_circle, second)):
        error = call.future.exception(10)
        states.append(getattr(error, "sqlstate", None))
        # The one that is aborted lets the other one go on.
        connection.rollback() if error else connection.commit()
    assert sorted(states, key=str) == ["40P01", None]
    # One transaction is there as a whole, of the other nothing.
    moved = (balance_of(app, 3) - 10000, balance_of(app, 5) - 10000)
    assert moved == ((10, 1) if states[0] is None else (1, 10))
    assert violations(app) == []


def test_calls_composed_in_the_same_order_wait_and_both_succeed(sessions: Sessions, app: Connection) -> None:
    both = "select * from bank.transfer(2, 3, 1) as one, bank.transfer(4, 5, 1) as other"
    first = sessions.holding(both)
    second = sessions.start(both)
    assert second.is_blocked_by(first)
    first.commit()
    assert len(second.rows()) == 1
    assert (balance_of(app, 3), balance_of(app, 5)) == (10002, 10002)


def test_a_reader_does_not_wait_for_a_posting_in_flight_and_does_not_see_it(
    sessions: Sessions, app: Connection
) -> None:
    sessions.holding("select bank.transfer(2, 3, 100, 'k')")
    app.execute("set lock_timeout = '1ms'")
    for call in ("balance(2)", "account(2)"):
        assert (posting(app, call)["balance_minor"], posting(app, call)["version"]) == (10000, 1)
    assert [line["version"] for line in app.execute("select * from bank.statement(2)")] == [1]
    assert sqlstate_and_code(lambda: posting(app, "find_transaction('k')")) == ("TLTXN", "transaction_not_found")
    assert violations(app) == []


def test_a_posting_does_not_wait_for_an_unrelated_one(sessions: Sessions, app: Connection) -> None:
    sessions.holding("select bank.transfer(2, 3, 100)")
    app.execute("set lock_timeout = '1ms'")
    for call in ("transfer(4, 5, 1)", "credit(4, 1)", "debit(4, 1)", "debit(4, 1, 5)"):
        assert posting(app, call)["transaction_status"] == "success"


def test_a_posting_does_not_wait_for_an_account_being_opened(sessions: Sessions, app: Connection) -> None:
    sessions.holding("select bank.open_account('Bob', 'EUR')")
    app.execute("set lock_timeout = '1ms'")
    assert posting(app, "credit(2, 1)")["transaction_status"] == "success"


def test_a_rejected_posting_is_locked_like_a_successful_one(sessions: Sessions) -> None:
    """Its facts hold until it is committed."""
    rejected = sessions.holding("select bank.debit(2, 10001)")
    credit = sessions.start("select * from bank.credit(2, 1)")
    assert credit.is_blocked_by(rejected)
    rejected.commit()
    assert credit.row()["transaction_status"] == "success"
