"""What a posting is stamped with when it waited or the clock stepped back, and callers with a frozen snapshot."""

from datetime import datetime

import psycopg
import pytest

from tests.concurrency.conftest import FIXED_SNAPSHOT_LEVELS, Sessions, posting
from tests.conftest import Connection
from tests.helpers import Row, balance_of, violations

pytestmark = pytest.mark.usefixtures("accounts")


def test_a_waiter_is_stamped_after_all_that_it_waited_for(sessions: Sessions, app: Connection) -> None:
    """The holder posts once more while the waiter's statement, begun earlier, waits."""
    holder = sessions.holding("select bank.transfer(2, 3, 1)")
    waiter = sessions.start("select * from bank.transfer(3, 2, 1)")
    assert waiter.is_blocked_by(holder)
    last = posting(holder, "transfer(2, 3, 1)")
    holder.commit()
    assert waiter.row()["created_at"] > last["created_at"]
    assert violations(app) == []


# Ahead by less than verify() takes for a time from the future.
AHEAD = "clock_timestamp() + interval '40 seconds'"

# What each posts, so that account 2, or a stripe of account 1, is on one side of it.
POSTINGS = {
    "a debit side": "transfer(2, 3, 1)",
    "a credit side": "transfer(3, 2, 1)",
    "a batch": "post_transfers(array[2, 3, 2], array[3, 2, 4], array[1, 1, 1])",
    "a batch in groups": "post_transfers(array[2, 3], array[3, 2], array[1, 1], groups => array[1, 1])",
    "an atomic batch": "post_transfers(array[3, 4], array[2, 3], array[1, 1], atomic => true)",
    "legs": "post_legs(array[2, 3, 4], array[-2, 1, 1])",
    "legs that come in": "post_legs(array[3, 4, 2], array[-1, -1, 2])",
}
STRIPED = {
    "a credit": "credit(2, 1)",
    "a debit": "debit(2, 1)",
    "a batch": "post(array['credit', 'debit', 'transfer'], array[null, 2, 2], array[3, null, 4], array[1, 1, 1])",
    "legs": "post_legs(array[1, 2], array[-1, 1])",
}


def put_ahead(owner: Connection, account_ids: str) -> datetime:
    """Let rows of accounts have a last entry ahead of the clock, which stepped back; return its time."""
    (row,) = owner.execute(f"select {AHEAD} as at".encode()).fetchall()
    moved = f"update bank.account set last_entry_at = %(at)s where account_id {account_ids} and version > 0"
    assert owner.execute(moved.encode(), row).rowcount > 0
    owner.execute(
        """
        update bank.entry as e set created_at = a.last_entry_at from bank.account as a
        where (e.ledger_id, e.account_id, e.version) = (a.ledger_id, a.account_id, a.version)
        """
    )
    at: datetime = row["at"]
    return at


def entries_of(owner: Connection, posted: list[Row]) -> list[Row]:
    """The entries of these transactions, each with the time of its transaction and of the entry before it."""
    return owner.execute(
        """
        select e.account_id, e.created_at, t.created_at as transaction_at, before.created_at as before_at
        from bank.entry as e
        inner join bank.transaction as t using (ledger_id, transaction_id)
        left join bank.entry as before on (before.ledger_id, before.account_id, before.version)
            = (e.ledger_id, e.account_id, e.version - 1)
        where e.transaction_id = any(%s)
        """,
        [[row["transaction_id"] for row in posted]],
    ).fetchall()


@pytest.mark.parametrize("call", POSTINGS.values(), ids=POSTINGS)
def test_where_the_clock_stepped_back_an_account_s_own_entries_never_run_back_and_all_else_takes_the_clock(
    app: Connection, owner: Connection, call: str
) -> None:
    ahead = put_ahead(owner, "= 2")
    posted = app.execute(f"select * from bank.{call}".encode()).fetchall()
    assert {row["failure_code"] for row in posted} == {None}
    assert all(row["created_at"] < ahead for row in posted)
    entries = entries_of(owner, posted)
    assert {entry["account_id"] for entry in entries} >= {2, 3}
    for entry in entries:
        assert entry["created_at"] == (ahead if entry["account_id"] == 2 else entry["transaction_at"])
    rows = owner.execute("select account_id, last_entry_at from bank.account where account_id in (2, 3)").fetchall()
    last = {row["account_id"]: row["last_entry_at"] for row in rows}
    assert last[2] == ahead
    assert last[3] == max(entry["created_at"] for entry in entries if entry["account_id"] == 3)
    assert violations(app) == []


@pytest.mark.parametrize("call", STRIPED.values(), ids=STRIPED)
def test_the_time_of_a_stripe_stays_with_the_stripe(app: Connection, owner: Connection, call: str) -> None:
    ahead = put_ahead(owner, "> 1000000")
    posted = app.execute(f"select * from bank.{call}".encode()).fetchall()
    assert {row["failure_code"] for row in posted} == {None}
    assert all(row["created_at"] < ahead for row in posted)
    entries = entries_of(owner, posted)
    assert any(entry["account_id"] > 1_000_000 for entry in entries)
    for entry in entries:
        assert entry["created_at"] == (ahead if entry["account_id"] > 1_000_000 else entry["transaction_at"])
    assert violations(app) == []


def test_a_bad_time_does_not_travel_from_account_to_account(app: Connection, owner: Connection) -> None:
    put_ahead(owner, "= 2")
    for call in ("transfer(2, 3, 1)", "transfer(3, 4, 1)", "debit(2, 1)", "credit(5, 1)", "transfer(4, 5, 1)"):
        posting(app, call)
    rows = owner.execute("select account_id from bank.account where last_entry_at > clock_timestamp()").fetchall()
    assert rows == [{"account_id": 2}]


def test_an_account_takes_the_clock_again_when_it_has_caught_up(app: Connection, owner: Connection) -> None:
    owner.execute(
        "update bank.account as a set last_entry_at = e.created_at - interval '1 hour' from bank.entry as e"
        " where a.account_id = 2 and e.account_id = 2 and e.version = a.version"
    )
    posted = posting(app, "transfer(2, 3, 1)")
    assert {entry["created_at"] for entry in entries_of(owner, [posted])} == {posted["created_at"]}


def test_a_failure_takes_the_clock_whatever_the_times_of_its_accounts(app: Connection, owner: Connection) -> None:
    ahead = put_ahead(owner, "in (2, 3)")
    failed = posting(app, "transfer(2, 3, 99999999)")
    assert failed["failure_code"] == "insufficient_funds"
    assert failed["created_at"] < ahead


def test_a_posting_in_flight_does_not_stop_foreign_keys_to_its_accounts(sessions: Sessions, owner: Connection) -> None:
    """A table of the caller's may refer to an account: its inserts take this lock."""
    sessions.holding("select bank.transfer(2, 3, 1)")
    rows = owner.execute("select account_id from bank.account where account_id in (2, 3) for key share nowait")
    assert rows.rowcount == 2


@pytest.mark.parametrize("isolation", FIXED_SNAPSHOT_LEVELS)
@pytest.mark.parametrize(
    ("meanwhile", "call"),
    [
        ("debit(2, 10000)", "debit(2, 10000)"),
        ("transfer(2, 3, 1, 'k')", "transfer(2, 3, 1, 'k')"),
        ("transfer(2, 3, 1, 'k')", "transfer(4, 5, 1, 'k')"),
        ("transfer(2, 3, 1, 'k')", "post_transfers(array[4], array[5], array[1], array['k'])"),
    ],
    ids=["the same account", "the same key", "the same key on other accounts", "the same key in a batch"],
)
def test_a_caller_whose_snapshot_is_too_old_is_told_to_retry_and_posts_nothing(
    sessions: Sessions, app: Connection, meanwhile: str, call: str
) -> None:
    caller = sessions.idle(autocommit=False)
    assert balance_of(caller, 2) == 10000
    posting(app, meanwhile)
    before = [balance_of(app, account_id) for account_id in (2, 3, 4, 5)]
    with pytest.raises(psycopg.errors.SerializationFailure):
        posting(caller, call)
    caller.rollback()
    assert [balance_of(app, account_id) for account_id in (2, 3, 4, 5)] == before
    assert violations(app) == []


@pytest.mark.parametrize("isolation", FIXED_SNAPSHOT_LEVELS)
@pytest.mark.parametrize("call", ["transfer(2, 3, 1, 'k')", "post_transfers(array[2], array[3], array[1], array['k'])"])
def test_a_key_that_a_fixed_snapshot_sees_is_replayed(sessions: Sessions, app: Connection, call: str) -> None:
    posted = posting(app, "transfer(2, 3, 1, 'k')")
    caller = sessions.idle(autocommit=False)
    assert posting(caller, call) == {**posted, "replayed": True}
    caller.commit()
    assert violations(app) == []
