"""What unique indexes decide when it is raced: idempotency keys, settlement accounts, external ids of accounts."""

import pytest

from tests.concurrency.conftest import Sessions, posting, sqlstate_and_code
from tests.conftest import Connection
from tests.helpers import balance_of, violations


@pytest.mark.usefixtures("accounts")
def test_a_retry_that_races_the_first_request_replays_its_outcome(sessions: Sessions, app: Connection) -> None:
    first = sessions.idle(autocommit=False)
    posted = posting(first, "transfer(2, 3, 100, 'k')")
    retry = sessions.start("select * from bank.transfer(2, 3, 100, 'k')")
    assert retry.is_blocked_by(first)
    first.commit()
    assert retry.row() == {**posted, "replayed": True}
    assert balance_of(app, 3) == 10100
    assert violations(app) == []


@pytest.mark.usefixtures("accounts")
def test_a_retry_that_races_a_rejected_request_replays_the_rejection(sessions: Sessions, app: Connection) -> None:
    first = sessions.idle(autocommit=False)
    rejected = posting(first, "debit(2, 10001, idempotency_key => 'k')")
    assert rejected["failure_code"] == "insufficient_funds"
    posting(first, "credit(2, 1)")
    retry = sessions.start("select * from bank.debit(2, 10001, idempotency_key => 'k')")
    assert retry.is_blocked_by(first)
    first.commit()
    assert retry.row() == {**rejected, "replayed": True}
    assert balance_of(app, 2) == 10001


@pytest.mark.usefixtures("accounts")
def test_a_retry_posts_when_the_first_request_rolls_back(sessions: Sessions, app: Connection) -> None:
    first = sessions.holding("select bank.transfer(2, 3, 100, 'k')")
    retry = sessions.start("select * from bank.transfer(2, 3, 100, 'k')")
    assert retry.is_blocked_by(first)
    first.rollback()
    posted = retry.row()
    assert (posted["transaction_status"], posted["replayed"]) == ("success", False)
    assert posting(app, "find_transaction('k')")["transaction_id"] == posted["transaction_id"]
    assert balance_of(app, 3) == 10100
    assert violations(app) == []


@pytest.mark.usefixtures("accounts")
def test_a_raced_key_of_another_request_on_other_accounts_is_refused_once_the_first_commits(
    sessions: Sessions, app: Connection
) -> None:
    first = sessions.holding("select bank.transfer(2, 3, 100, 'k')")
    other = sessions.start("select * from bank.transfer(4, 5, 100, 'k')")
    assert other.is_blocked_by(first)
    first.commit()
    assert sqlstate_and_code(other.rows) == ("TLKEY", "idempotency_key_reused")
    assert (balance_of(app, 3), balance_of(app, 5)) == (10100, 10000)
    assert violations(app) == []


@pytest.mark.usefixtures("accounts")
def test_a_raced_key_of_another_request_on_other_accounts_posts_when_the_first_rolls_back(
    sessions: Sessions, app: Connection
) -> None:
    first = sessions.holding("select bank.transfer(2, 3, 100, 'k')")
    other = sessions.start("select * from bank.transfer(4, 5, 100, 'k')")
    assert other.is_blocked_by(first)
    first.rollback()
    assert (other.row()["transaction_status"], other.row()["replayed"]) == ("success", False)
    assert (balance_of(app, 3), balance_of(app, 5)) == (10000, 10100)
    assert violations(app) == []


def test_two_batches_with_the_same_keys_in_opposite_orders_do_not_deadlock(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    """They have no account in common. Either holds its first keys when it comes to the one that somebody else has."""
    other = int(posting(app, "open_account('Eve', 'EUR')")["account_id"])
    holder = sessions.holding(f"select bank.credit({other}, 1, 'm')")
    batch = "select * from bank.post_transfers(array[{0},{0},{0}], array[{1},{1},{1}], array[1, 1, 1], array[{2}])"
    first = sessions.start(batch.format(*accounts[:2], "'a', 'm', 'z'"))
    assert first.is_blocked_by(holder)
    second = sessions.start(batch.format(*accounts[2:], "'z', 'm', 'a'"))
    assert second.is_blocked_by(holder, first.connection)
    holder.rollback()
    assert [row["failure_code"] for row in first.rows()] == [None] * 3
    assert [row["failure_code"] for row in second.rows()] == ["idempotency_key_reused"] * 3
    assert violations(app) == []


def test_the_same_key_in_two_ledgers_does_not_wait(sessions: Sessions, app: Connection, owner: Connection) -> None:
    ledger_id = posting(owner, "create_ledger('Other')")["ledger_id"]
    posting(app, "open_account('Ada', 'EUR')")
    there = posting(app, f"open_account('Ada', 'EUR', ledger_id => {ledger_id})")["account_id"]
    sessions.holding("select bank.credit(2, 100, 'k')")
    app.execute("set lock_timeout = '1ms'")
    posted = posting(app, f"credit({there}, 100, 'k', ledger_id => {ledger_id})")
    assert (posted["transaction_status"], posted["replayed"]) == ("success", False)


@pytest.mark.parametrize("ends_by", ["commit", "rollback"])
def test_raced_first_accounts_of_a_currency_share_one_settlement_account(
    sessions: Sessions, app: Connection, owner: Connection, ends_by: str
) -> None:
    first = sessions.holding("select bank.open_account('Ada', 'EUR')")
    second = sessions.start("select * from bank.open_account('Bob', 'EUR')")
    assert second.is_blocked_by(first)
    getattr(first, ends_by)()
    bob = second.row()["account_id"]
    rows = owner.execute(
        "select holder_name, settlement from bank.account where stripes >= 0 order by account_id"
    ).fetchall()
    assert [row["settlement"] for row in rows].count(True) == 1
    expected = {"Settlement EUR", "Bob"} | ({"Ada"} if ends_by == "commit" else set())
    assert {row["holder_name"] for row in rows} == expected
    assert len(rows) == len(expected)
    assert posting(app, f"credit({bob}, 1)")["transaction_status"] == "success"
    assert violations(app) == []


def test_first_accounts_of_different_currencies_do_not_wait_for_each_other(sessions: Sessions, app: Connection) -> None:
    sessions.holding("select bank.open_account('Ada', 'EUR')")
    app.execute("set lock_timeout = '1ms'")
    assert posting(app, "open_account('Bob', 'JPY')")["currency"] == "JPY"


@pytest.mark.usefixtures("accounts")
def test_a_raced_external_id_of_an_account_is_taken_once_the_first_commits(sessions: Sessions, app: Connection) -> None:
    first = sessions.idle(autocommit=False)
    ada = posting(first, "open_account('Ada', 'EUR', external_id => 'customer-1')")["account_id"]
    second = sessions.start("select * from bank.open_account('Bob', 'EUR', external_id => 'customer-1')")
    assert second.is_blocked_by(first)
    first.commit()
    assert sqlstate_and_code(second.rows) == ("TLEXT", "external_id_taken")
    rows = app.execute("select account_id from bank.account_detail where external_id = 'customer-1'").fetchall()
    assert rows == [{"account_id": ada}]


@pytest.mark.usefixtures("accounts")
def test_a_raced_external_id_of_an_account_is_free_when_the_first_rolls_back(sessions: Sessions) -> None:
    first = sessions.holding("select bank.open_account('Ada', 'EUR', external_id => 'customer-1')")
    second = sessions.start("select * from bank.open_account('Bob', 'EUR', external_id => 'customer-1')")
    assert second.is_blocked_by(first)
    first.rollback()
    assert (second.row()["holder_name"], second.row()["external_id"]) == ("Bob", "customer-1")
