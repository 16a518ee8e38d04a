"""Reversals under concurrency: the original transaction is locked first, so that no two take the same part back."""

import pytest

from tests.concurrency.conftest import Sessions, posting
from tests.conftest import Connection
from tests.helpers import balance_of, call, call_all, violations

ADA, SHOP, OTHER = 2, 3, 4


@pytest.fixture
def paid(app: Connection, accounts: list[int]) -> int:
    """A transfer of 400 from ADA to the SHOP."""
    transaction_id: int = posting(app, f"transfer({ADA}, {SHOP}, 400)")["transaction_id"]
    return transaction_id


@pytest.mark.parametrize(
    ("first", "second", "code", "back"),
    [
        (300, 200, "reversal_exceeds_original", 300),
        (300, 100, None, 400),
        (400, 1, "reversal_exceeds_original", 400),
        ("null", "null", "reversal_exceeds_original", 400),
        (300, "null", None, 400),
    ],
)
def test_two_reversals_do_not_exceed_the_original(
    sessions: Sessions, app: Connection, paid: int, *, first: object, second: object, code: str | None, back: int
) -> None:
    holder = sessions.holding(f"select bank.reverse({paid}, {first})")
    waiter = sessions.start(f"select * from bank.reverse({paid}, {second})")
    assert waiter.is_blocked_by(holder)
    holder.commit()
    assert waiter.row()["failure_code"] == code
    assert balance_of(app, ADA) == 10_000 - 400 + back
    assert violations(app) == []


def test_a_reversal_that_is_taken_back_leaves_its_part(sessions: Sessions, app: Connection, paid: int) -> None:
    holder = sessions.holding(f"select bank.reverse({paid})")
    waiter = sessions.start(f"select * from bank.reverse({paid}, 150)")
    assert waiter.is_blocked_by(holder)
    holder.rollback()
    assert waiter.row()["failure_code"] is None
    assert violations(app) == []


def test_a_reversal_of_legs_happens_once(sessions: Sessions, app: Connection, accounts: list[int]) -> None:
    legs = posting(app, f"post_legs(array[{ADA}, {SHOP}, {OTHER}], array[-100, 90, 10])")["transaction_id"]
    holder = sessions.holding(f"select bank.reverse({legs})")
    waiter = sessions.start(f"select * from bank.reverse({legs})")
    assert waiter.is_blocked_by(holder)
    holder.commit()
    assert waiter.row()["failure_code"] == "reversal_exceeds_original"
    assert [balance_of(app, account_id) for account_id in (ADA, SHOP, OTHER)] == [10_000] * 3
    assert violations(app) == []


def test_a_duplicate_reversal_gets_the_outcome_of_the_first(sessions: Sessions, app: Connection, paid: int) -> None:
    statement = f"select * from bank.reverse({paid}, idempotency_key => 'key')"
    holder = sessions.idle(autocommit=False)
    first = holder.execute(statement.encode()).fetchone()
    retry = sessions.start(statement)
    assert retry.is_blocked_by(holder)
    holder.commit()
    assert first is not None
    assert retry.row() == {**first, "replayed": True}
    assert balance_of(app, ADA) == 10_000
    assert violations(app) == []


def test_a_forced_reversal_raises_the_limit_to_what_is_needed_after_the_wait(
    sessions: Sessions, app: Connection, paid: int
) -> None:
    holder = sessions.holding(f"select bank.transfer({SHOP}, {OTHER}, 10300)")
    waiter = sessions.start(f"select * from bank.reverse({paid}, force => true)")
    assert waiter.is_blocked_by(holder)
    holder.commit()
    assert waiter.row()["debit_balance_after_minor"] == -300
    assert call(app, "account", SHOP)["overdraft_limit_minor"] == 300
    assert len(call_all(app, "account_changes", SHOP)) == 1
    assert violations(app) == []


@pytest.mark.parametrize(
    "pay", [f"transfer({ADA}, {SHOP}, 500)", f"post_legs(array[{ADA}, {SHOP}, {OTHER}], array[-500, 490, 10])"]
)
def test_a_forced_reversal_locks_in_the_order_of_every_posting(
    sessions: Sessions, app: Connection, accounts: list[int], pay: str
) -> None:
    """It waits for the account with the lower id while it holds none with a higher."""
    paid = posting(app, pay)["transaction_id"]
    holder = sessions.holding(f"select bank.transfer({ADA}, {accounts[3]}, 1)")
    reversal = sessions.start(f"select * from bank.reverse({paid}, force => true)")
    assert reversal.is_blocked_by(holder)
    posting(holder, f"transfer({ADA}, {SHOP}, 1)")
    holder.commit()
    assert reversal.row()["failure_code"] is None
    assert violations(app) == []
