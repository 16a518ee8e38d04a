"""Holds under concurrency: each is decided under the lock of its account, so every race has one winner.

Capture and void lock the hold's accounts before they look at the hold, as an authorisation and a transfer do before
they look at what is available. Who sweeps expired holds waits for nobody.
"""

import datetime as dt

import pytest

from tests.concurrency.conftest import Sessions, posting
from tests.conftest import Connection
from tests.helpers import authorise, balances_of, call, expire, hold_state, open_account, violations

ADA, SHOP = 2, 3
DEADLINE = "expires_at => now() + interval '1 day'"


@pytest.fixture
def hold_id(app: Connection, accounts: list[int]) -> int:
    """4000 of ADA's 10000 for the SHOP."""
    posted = posting(app, f"authorise({ADA}, 4000, {SHOP}, {DEADLINE})")
    assert posted["failure_code"] is None
    transaction_id: int = posted["transaction_id"]
    return transaction_id


def race(sessions: Sessions, first: str, second: str) -> str | None:
    """Run the first, see the second wait for it, commit; return the second's failure code."""
    holder = sessions.holding(f"select bank.{first}")
    waiter = sessions.start(f"select * from bank.{second}")
    assert waiter.is_blocked_by(holder)
    holder.commit()
    code: str | None = waiter.row()["failure_code"]
    return code


@pytest.mark.parametrize(
    ("first", "second", "status", "balances"),
    [
        ("capture({})", "capture({})", "captured", (6000, 0, 6000)),
        ("capture({})", "void({})", "captured", (6000, 0, 6000)),
        ("void({})", "capture({})", "voided", (10_000, 0, 10_000)),
        ("void({})", "void({})", "voided", (10_000, 0, 10_000)),
        ("capture({}, 1, true)", "capture({}, 3999)", "captured", (9999, 0, 9999)),
    ],
)
def test_a_hold_ends_once(
    sessions: Sessions,
    app: Connection,
    hold_id: int,
    *,
    first: str,
    second: str,
    status: str,
    balances: tuple[int, ...],
) -> None:
    assert race(sessions, first.format(hold_id), second.format(hold_id)) == "hold_not_open"
    assert hold_state(app, hold_id)[::2] == (status, 0)
    assert balances_of(app, ADA) == balances
    assert violations(app) == []


def test_a_duplicate_capture_gets_the_outcome_of_the_first(sessions: Sessions, app: Connection, hold_id: int) -> None:
    statement = f"select * from bank.capture({hold_id}, 100, idempotency_key => 'key')"
    holder = sessions.idle(autocommit=False)
    first = holder.execute(statement.encode()).fetchone()
    retry = sessions.start(statement)
    assert retry.is_blocked_by(holder)
    holder.commit()
    assert first is not None
    assert retry.row() == {**first, "replayed": True}
    assert hold_state(app, hold_id) == ("open", 100, 3900)
    assert violations(app) == []


def test_two_captures_do_not_both_get_the_last_part(sessions: Sessions, app: Connection, hold_id: int) -> None:
    assert race(sessions, f"capture({hold_id}, 2500)", f"capture({hold_id}, 2500)") == "capture_exceeds_hold"
    assert hold_state(app, hold_id) == ("open", 2500, 1500)
    assert race(sessions, f"capture({hold_id}, 700)", f"capture({hold_id}, 800)") is None
    assert hold_state(app, hold_id) == ("captured", 4000, 0)
    assert balances_of(app, ADA) == (6000, 0, 6000)
    assert violations(app) == []


def test_a_capture_that_is_taken_back_leaves_the_hold_to_who_waited(
    sessions: Sessions, app: Connection, hold_id: int
) -> None:
    holder = sessions.holding(f"select bank.capture({hold_id})")
    waiter = sessions.start(f"select * from bank.void({hold_id})")
    assert waiter.is_blocked_by(holder)
    holder.rollback()
    assert waiter.row()["failure_code"] is None
    assert balances_of(app, ADA) == (10_000, 0, 10_000)
    assert violations(app) == []


@pytest.mark.parametrize("function", ["capture", "void"])
def test_a_hold_that_expires_while_somebody_waits_is_over(
    sessions: Sessions, app: Connection, owner: Connection, hold_id: int, function: str
) -> None:
    holder = sessions.holding(f"select bank.transfer({ADA}, {SHOP}, 1)")
    waiter = sessions.start(f"select * from bank.{function}({hold_id})")
    assert waiter.is_blocked_by(holder)
    expire(owner, hold_id)
    holder.commit()
    assert waiter.row()["failure_detail"] == {"hold_id": hold_id, "hold_status": "expired"}
    assert balances_of(app, ADA) == (9999, 0, 9999)
    assert violations(app) == []


def test_what_a_hold_held_that_expired_while_a_sweep_waited_is_swept(
    sessions: Sessions, app: Connection, owner: Connection, hold_id: int
) -> None:
    holder = sessions.holding(f"select bank.credit({ADA}, 1)")
    waiter = sessions.start(f"select * from bank.sweep({ADA}, {SHOP})")
    assert waiter.is_blocked_by(holder)
    # Not in the past of the waiter's statement, as `expire` would have it.
    owner.execute("update bank.hold set expires_at = clock_timestamp() where hold_id = %s", [hold_id])
    holder.commit()
    assert waiter.row()["amount_minor"] == 10_001
    assert balances_of(app, ADA) == (0, 0, 0)
    assert violations(app) == []


@pytest.mark.parametrize(
    "change", ["close_account({})", "set_limit({}, 'minimum_balance', 0)", "stripe_account({}, 4)"]
)
def test_a_hold_that_expired_while_a_change_of_its_account_waited_is_not_in_the_way(
    sessions: Sessions, app: Connection, owner: Connection, change: str
) -> None:
    account_id = open_account(app, overdraft_limit_minor=50)
    hold_id = authorise(app, account_id, 50, expires_at=dt.datetime.now(dt.UTC) + dt.timedelta(days=1))
    holder = sessions.holding(f"select bank.set_limit({account_id}, 'overdraft', null)")
    waiter = sessions.start(f"select * from bank.{change.format(account_id)}")
    assert waiter.is_blocked_by(holder)
    # Not in the past of the waiter's statement, as `expire` would have it.
    owner.execute("update bank.hold set expires_at = clock_timestamp() where hold_id = %s", [hold_id])
    holder.commit()
    assert waiter.row()["held_minor"] == 0
    assert hold_state(app, hold_id) == ("expired", 0, 0)
    assert violations(app) == []


def test_a_sweep_of_expired_holds_that_came_first_leaves_nothing_to_capture(
    sessions: Sessions, app: Connection, owner: Connection, hold_id: int
) -> None:
    expire(owner, hold_id)
    assert race(sessions, "end_expired_holds()", f"capture({hold_id})") == "hold_not_open"
    assert balances_of(app, ADA) == (10_000, 0, 10_000)
    assert violations(app) == []


@pytest.mark.parametrize(
    ("first", "second", "available"),
    [
        ("authorise(2, 7000)", "transfer(2, 3, 3001)", 3000),
        ("transfer(2, 3, 7000)", "authorise(2, 3001)", 3000),
        ("authorise(2, 7000)", "authorise(2, 3001)", 3000),
        ("authorise(2, 7000)", "post_transfers(array[2], array[3], array[3001])", 3000),
        ("authorise(2, 7000)", "post_legs(array[2, 3], array[-3001, 3001])", 3000),
    ],
)
def test_money_is_reserved_or_moved_but_not_both(
    sessions: Sessions, app: Connection, accounts: list[int], *, first: str, second: str, available: int
) -> None:
    assert race(sessions, first, second) == "insufficient_funds"
    assert balances_of(app, ADA)[2] == available
    assert violations(app) == []


def test_a_hold_on_an_account_that_is_being_frozen_is_decided_by_the_lock(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    assert race(sessions, f"freeze_account({ADA})", f"authorise({ADA}, 5)") == "account_frozen"
    call(app, "unfreeze_account", ADA)
    holder = sessions.holding(f"select bank.authorise({ADA}, 5)")
    freeze = sessions.start(f"select * from bank.freeze_account({ADA})")
    assert freeze.is_blocked_by(holder)
    holder.commit()
    assert (freeze.row()["account_status"], freeze.row()["held_minor"]) == ("frozen", 5)
    assert violations(app) == []


def test_a_capture_on_an_account_that_is_being_frozen_is_decided_by_the_lock(
    sessions: Sessions, app: Connection, hold_id: int
) -> None:
    assert race(sessions, f"freeze_account({ADA})", f"capture({hold_id}, 1)") == "account_frozen"
    assert race(sessions, f"unfreeze_account({ADA})", f"capture({hold_id}, 1)") is None
    assert hold_state(app, hold_id) == ("open", 1, 3999)
    assert violations(app) == []


def test_who_sweeps_skips_an_account_that_is_locked(
    sessions: Sessions, app: Connection, owner: Connection, accounts: list[int], hold_id: int
) -> None:
    other = posting(app, f"authorise({SHOP}, 10, {DEADLINE})")["transaction_id"]
    expire(owner, hold_id)
    expire(owner, other)
    holder = sessions.holding(f"select bank.credit({ADA}, 1)")
    assert posting(app, "end_expired_holds()") == {"end_expired_holds": 1}
    statuses = owner.execute("select hold_status from bank.hold order by hold_id").fetchall()
    assert [row["hold_status"] for row in statuses] == ["open", "expired"]
    assert hold_state(app, hold_id) == ("expired", 0, 0)
    holder.commit()
    assert posting(app, "end_expired_holds()") == {"end_expired_holds": 1}
    assert violations(app) == []


def test_two_sweepers_tidy_each_account_once(
    sessions: Sessions, app: Connection, owner: Connection, accounts: list[int]
) -> None:
    for account_id in accounts:
        expire(owner, posting(app, f"authorise({account_id}, 10, {DEADLINE})")["transaction_id"])
    holder = sessions.holding(f"select from bank.hold where account_id = {accounts[0]} for update", "bank_owner")
    # The first has its list of four accounts and waits at the first one; the second skips that and does the rest.
    first = sessions.start("select * from bank.end_expired_holds()")
    assert first.is_blocked_by(holder)
    assert posting(app, "end_expired_holds()") == {"end_expired_holds": 3}
    ended = owner.execute("select ended_at from bank.hold order by hold_id").fetchall()
    holder.commit()
    assert first.row() == {"end_expired_holds": 1}
    assert owner.execute("select ended_at from bank.hold order by hold_id").fetchall()[1:] == ended[1:]
    assert {balances_of(app, account_id)[1] for account_id in accounts} == {0}
    assert violations(app) == []
