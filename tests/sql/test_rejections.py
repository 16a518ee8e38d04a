"""Which account a rejection names, and rejections of credits and of debits with a beneficiary."""

import pytest

from tests.conftest import Connection
from tests.helpers import Row, call, count, open_account, raises, violations

MAX = 2**53 - 1
SETTLEMENT = 1


def set_status(owner: Connection, account_id: int, status: str) -> None:
    owner.execute(
        "update bank.account set account_status = %s where bank._account_of(account_id) = %s", [status, account_id]
    )


def assert_rejected(app: Connection, posting: Row, code: str, facts: Row) -> None:
    assert (posting["failure_code"], posting["failure_detail"]) == (code, facts)
    assert call(app, "get_transaction", posting["transaction_id"]) == posting
    assert violations(app) == []


@pytest.mark.parametrize("status", ["closed", "frozen"])
@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_stopped_accounts_the_debited_one_is_named(
    app: Connection, owner: Connection, status: str, swapped: bool
) -> None:
    debited, credited = (open_account(app, 100), open_account(app, 100))[:: -1 if swapped else 1]
    set_status(owner, debited, status)
    set_status(owner, credited, status)
    assert_rejected(app, call(app, "transfer", debited, credited, 1), f"account_{status}", {"account_id": debited})


def test_a_closed_credited_account_goes_before_a_frozen_debited_one(app: Connection, owner: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    set_status(owner, ada, "frozen")
    set_status(owner, bob, "closed")
    assert_rejected(app, call(app, "transfer", ada, bob, 1), "account_closed", {"account_id": bob})


@pytest.mark.parametrize("status", ["closed", "frozen"])
@pytest.mark.parametrize("function", ["credit", "debit"])
def test_a_stopped_settlement_account_stops_credits_and_debits(
    app: Connection, owner: Connection, status: str, function: str
) -> None:
    ada = open_account(app, 100)
    set_status(owner, SETTLEMENT, status)
    assert_rejected(app, call(app, function, ada, 1), f"account_{status}", {"account_id": SETTLEMENT})


@pytest.mark.parametrize("function", ["credit", "debit"])
def test_a_settlement_account_is_not_its_own_other_side(app: Connection, function: str) -> None:
    open_account(app)
    assert_rejected(app, call(app, function, SETTLEMENT, 1), "same_account", {"account_id": SETTLEMENT})


def test_a_credit_past_the_exact_range_names_the_settlement_account_which_is_debited(app: Connection) -> None:
    open_account(app, MAX)
    bob = open_account(app)
    facts = {"account_id": SETTLEMENT, "amount_minor": 1}
    assert_rejected(app, call(app, "credit", bob, 1), "balance_overflow", facts)


def test_a_debit_to_a_beneficiary_in_another_currency_is_a_mismatch_in_the_debited_currency(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app, currency="JPY")
    posting = call(app, "debit", ada, 1, bob)
    assert_rejected(app, posting, "currency_mismatch", {"debit_currency": "EUR", "credit_currency": "JPY"})
    assert posting["currency"] == "EUR"


def test_a_rejection_changes_neither_account_nor_writes_an_entry(app: Connection, owner: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app, 100)
    before = [call(app, "account", account_id) for account_id in (ada, bob)]
    entries = count(owner, "entry")
    assert call(app, "transfer", ada, bob, 101)["transaction_status"] == "failure"
    assert [call(app, "account", account_id) for account_id in (ada, bob)] == before
    assert count(owner, "entry") == entries


def test_require_success_adds_the_facts_of_the_rejection_and_lets_a_success_through(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    query = "select * from bank.require_success(bank.transfer(%s, %s, %s, 'key-1'))"
    with raises("TLREJ", "posting_rejected", "posting") as facts:
        app.execute(query, [ada, bob, 101])
    assert (facts["failure_code"], facts["account_id"]) == ("insufficient_funds", ada)
    assert (facts["needed_minor"], facts["available_minor"]) == (101, 100)
    posted = app.execute(query, [ada, bob, 100]).fetchone()
    assert posted == call(app, "find_transaction", "key-1")
