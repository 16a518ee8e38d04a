"""The ledger's own accounts are made at first use, in one order: two first uses wait, and never for each other."""

import pytest

from tests.concurrency.conftest import Sessions, posting
from tests.conftest import Connection
from tests.helpers import violations


@pytest.fixture
def yens(app: Connection, accounts: list[int]) -> int:
    """An account in JPY with 10000; the four of `accounts` are in EUR."""
    account_id = int(posting(app, "open_account('Yen', 'JPY')")["account_id"])
    posting(app, f"credit({account_id}, 10000)")
    return account_id


@pytest.mark.parametrize("forward_first", [True, False])
def test_two_first_exchanges_in_opposite_directions_do_not_deadlock(
    sessions: Sessions, app: Connection, yens: int, *, forward_first: bool
) -> None:
    """Both need the liquidity accounts of EUR and JPY. The holder has made the later one, as a crossing order would."""
    calls = [f"select * from bank.exchange(2, {yens}, 1000, 163)", f"select * from bank.exchange({yens}, 3, 1000, 1)"]
    first, second = calls if forward_first else reversed(calls)
    holder = sessions.holding("select bank._book_account('liquidity', 'JPY', 1)", "bank_owner")
    one = sessions.start(first)
    assert one.is_blocked_by(holder)
    other = sessions.start(second)
    assert other.is_blocked_by(one.connection)  # for the earlier account, and not with it for the later one
    holder.rollback()
    assert [one.row()["failure_code"], other.row()["failure_code"]] == [None, None]
    assert violations(app) == []


@pytest.mark.parametrize("forward_first", [True, False])
def test_two_first_transfers_to_each_other_s_ledgers_do_not_deadlock(
    sessions: Sessions, app: Connection, owner: Connection, accounts: list[int], *, forward_first: bool
) -> None:
    posting(owner, "create_ledger('Branch')")
    far = int(posting(app, "open_account('Zoe', 'EUR', ledger_id => 2)")["account_id"])
    posting(app, f"credit({far}, 10000, ledger_id => 2)")
    calls = [
        f"select * from bank.transfer_to_ledger({accounts[0]}, 2, {far}, 10)",
        f"select * from bank.transfer_to_ledger({far}, 1, {accounts[1]}, 10, ledger_id => 2)",
    ]
    first, second = calls if forward_first else reversed(calls)
    holder = sessions.holding("select bank._book_account('clearing', 'EUR', 2)", "bank_owner")
    one = sessions.start(first)
    assert one.is_blocked_by(holder)
    other = sessions.start(second)
    assert other.is_blocked_by(one.connection)
    holder.rollback()
    assert [one.row()["failure_code"], other.row()["failure_code"]] == [None, None]
    assert violations(app) == []
