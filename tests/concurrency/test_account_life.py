"""What changes an account takes its lock: whoever comes first decides, and the other finds what is so then."""

import pytest

from tests.concurrency.conftest import Sessions, posting, sqlstate_and_code
from tests.conftest import Connection
from tests.helpers import balance_of, call, call_all, open_account, violations

ADA, BOB = 2, 3
POSTINGS = [
    "transfer({debit}, {credit}, 5)",
    "post_transfers(array[{debit}], array[{credit}], array[5])",
    "post_legs(array[{debit}, {credit}], array[-5, 5])",
]


@pytest.mark.parametrize("post", POSTINGS)
@pytest.mark.parametrize(
    ("frozen", "sides"), [("debits", {"debit": ADA, "credit": BOB}), ("credits", {"debit": BOB, "credit": ADA})]
)
def test_a_freeze_that_came_first_stops_the_posting_that_waited(
    sessions: Sessions, app: Connection, accounts: list[int], *, post: str, frozen: str, sides: dict[str, int]
) -> None:
    other = "credits" if frozen == "debits" else "debits"
    freeze = sessions.holding(f"select bank.freeze_account({ADA}, {frozen} => true, {other} => false)")
    waiter = sessions.start(f"select * from bank.{post.format(**sides)}")
    assert waiter.is_blocked_by(freeze)
    freeze.commit()
    assert waiter.row()["failure_code"] == "account_frozen"
    assert balance_of(app, ADA) == 10_000
    assert violations(app) == []


@pytest.mark.parametrize("post", POSTINGS)
def test_a_posting_that_came_first_is_posted_before_the_freeze(
    sessions: Sessions, app: Connection, accounts: list[int], post: str
) -> None:
    holder = sessions.holding(f"select * from bank.{post.format(debit=ADA, credit=BOB)}")
    freeze = sessions.start(f"select * from bank.freeze_account({ADA})")
    assert freeze.is_blocked_by(holder)
    holder.commit()
    assert (freeze.row()["account_status"], freeze.row()["balance_minor"]) == ("frozen", 9995)
    assert violations(app) == []


def test_a_freeze_that_is_taken_back_lets_the_posting_pass(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    freeze = sessions.holding(f"select bank.freeze_account({ADA})")
    waiter = sessions.start(f"select * from bank.transfer({ADA}, {BOB}, 5)")
    assert waiter.is_blocked_by(freeze)
    freeze.rollback()
    assert waiter.row()["failure_code"] is None
    assert call_all(app, "account_changes", ADA) == []


def test_a_freeze_of_a_striped_account_waits_for_a_posting_to_one_of_its_stripes(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    hot = open_account(app, overdraft_limit_minor=None)
    call(app, "stripe_account", hot, 4)
    holder = sessions.holding(f"select bank.transfer({BOB}, {hot}, 5)")
    freeze = sessions.start(f"select * from bank.freeze_account({hot})")
    assert freeze.is_blocked_by(holder)
    holder.commit()
    assert (freeze.row()["account_status"], freeze.row()["balance_minor"]) == ("frozen", 5)
    assert posting(app, f"transfer({ADA}, {hot}, 5)")["failure_code"] == "account_frozen"
    assert violations(app) == []


def test_an_account_is_not_closed_over_a_credit_in_flight(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    empty = open_account(app)
    holder = sessions.holding(f"select bank.transfer({ADA}, {empty}, 5)")
    closing = sessions.start(f"select * from bank.close_account({empty})")
    assert closing.is_blocked_by(holder)
    holder.commit()
    assert sqlstate_and_code(closing.rows) == ("TLBAL", "account_not_empty")
    assert call(app, "account", empty)["account_status"] == "open"
    assert violations(app) == []


def test_a_credit_does_not_reach_an_account_that_was_closed_first(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    empty = open_account(app)
    closing = sessions.holding(f"select bank.close_account({empty})")
    waiter = sessions.start(f"select * from bank.transfer({ADA}, {empty}, 5)")
    assert waiter.is_blocked_by(closing)
    closing.commit()
    assert (waiter.row()["failure_code"], balance_of(app, ADA)) == ("account_closed", 10_000)
    assert violations(app) == []


def test_a_closed_account_stays_closed_when_a_freeze_raced(sessions: Sessions, app: Connection) -> None:
    empty = open_account(app)
    closing = sessions.holding(f"select bank.close_account({empty})")
    freeze = sessions.start(f"select * from bank.freeze_account({empty})")
    assert freeze.is_blocked_by(closing)
    closing.commit()
    assert sqlstate_and_code(freeze.rows) == ("TLSTA", "account_state")
    assert call(app, "account", empty)["account_status"] == "closed"


@pytest.mark.parametrize("post", POSTINGS)
@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ("'overdraft', 0", "insufficient_funds"),
        ("'minimum_balance', 0", "balance_below_minimum"),
        ("'transaction', 4", "transaction_limit_exceeded"),
        ("'day', 4", "day_amount_exceeded"),
        ("'day', null, 0", "day_count_exceeded"),
    ],
)
def test_a_limit_that_came_first_stops_the_debit_that_waited(
    sessions: Sessions, app: Connection, accounts: list[int], *, post: str, limit: str, code: str
) -> None:
    empty = open_account(app, overdraft_limit_minor=5)
    setting = sessions.holding(f"select bank.set_limit({empty}, {limit})")
    waiter = sessions.start(f"select * from bank.{post.format(debit=empty, credit=BOB)}")
    assert waiter.is_blocked_by(setting)
    setting.commit()
    assert waiter.row()["failure_code"] == code
    assert violations(app) == []


def test_a_limit_that_came_after_a_debit_is_judged_by_what_that_left(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    holder = sessions.holding(f"select bank.transfer({ADA}, {BOB}, 5)")
    setting = sessions.start(f"select * from bank.set_limit({ADA}, 'minimum_balance', 10000)")
    assert setting.is_blocked_by(holder)
    holder.commit()
    assert sqlstate_and_code(setting.rows) == ("TLPAS", "limit_passed_already")
    assert call_all(app, "limits", ADA) == []


def test_two_debits_do_not_both_use_the_last_of_a_window(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    call(app, "set_limit", ADA, "day", 8, 5)
    holder = sessions.holding(f"select bank.transfer({ADA}, {BOB}, 5)")
    waiter = sessions.start(f"select * from bank.post_legs(array[{ADA}, {BOB}], array[-5, 5])")
    assert waiter.is_blocked_by(holder)
    holder.commit()
    assert waiter.row()["failure_detail"] == {"account_id": ADA, "limit_minor": 8, "used_minor": 5}
    assert violations(app) == []


def test_racing_changes_are_numbered_without_gaps(sessions: Sessions, app: Connection, accounts: list[int]) -> None:
    first = sessions.holding(f"select bank.freeze_account({ADA}, changed_by => 'first')")
    second = sessions.start(f"select * from bank.set_limit({ADA}, 'day', 5, changed_by => 'second')")
    assert second.is_blocked_by(first)
    first.commit()
    second.rows()
    changes = call_all(app, "account_changes", ADA)
    assert [(change["change_number"], change["changed_by"]) for change in changes] == [(2, "second"), (1, "first")]
    assert changes[0]["changed_at"] > changes[1]["changed_at"]
