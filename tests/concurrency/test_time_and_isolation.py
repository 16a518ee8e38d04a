"""What a posting is stamped with when it waited or the clock stepped back, and callers with a frozen snapshot."""

import psycopg
import pytest

from tests.concurrency.conftest import FIXED_SNAPSHOT_LEVELS, Sessions, posting
from tests.conftest import Connection
from tests.helpers import balance_of, violations

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


@pytest.mark.parametrize("ahead", [2, 3])
@pytest.mark.parametrize(
    "call",
    [
        "transfer(2, 3, 1)",
        "post_transfers(array[2], array[3], array[1])",
        "post_legs(array[2, 3], array[-1, 1])",
    ],
)
def test_entries_are_not_before_the_last_of_their_account_when_the_clock_steps_back_but_no_other_account_follows(
    app: Connection, owner: Connection, ahead: int, call: str
) -> None:
    """The past of the account is moved into the future, which is what a clock that stepped back makes of it."""
    later = "clock_timestamp() + interval '1 hour'"
    (row,) = owner.execute(
        f"update bank.account set last_entry_at = {later} where account_id = %s returning last_entry_at".encode(),
        [ahead],
    ).fetchall()
    posted = posting(app, call)
    assert posted["created_at"] < row["last_entry_at"]
    entries = owner.execute(
        "select account_id, created_at from bank.entry where transaction_id = %s", [posted["transaction_id"]]
    ).fetchall()
    assert {entry["account_id"]: entry["created_at"] for entry in entries} == {
        ahead: row["last_entry_at"],
        5 - ahead: posted["created_at"],
    }
    assert violations(app) == []


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
