"""Credit, debit and transfer: what they do, what they record, and what they refuse, in which order."""

from typing import Any

import pytest

from tests.conftest import Connection
from tests.helpers import Row, balance_of, call, call_all, count, open_account, raises, violations

MAX = 2**53 - 1


def test_a_credit_comes_from_the_settlement_account(app: Connection) -> None:
    account_id = open_account(app)
    posting = call(app, "credit", account_id, 500, "key-1", "Salary", "ext-1", '{"a": 1}')
    assert posting["transaction_type"] == "credit"
    assert (posting["transaction_status"], posting["failure_code"]) == ("success", None)
    assert posting["credit_account_id"] == account_id
    assert (posting["credit_balance_after_minor"], posting["credit_version"]) == (500, 1)
    settlement = call(app, "account", posting["debit_account_id"])
    assert (settlement["balance_minor"], settlement["version"], settlement["account_type"]) == (-500, 1, "asset")
    assert (posting["idempotency_key"], posting["description"]) == ("key-1", "Salary")
    assert (posting["external_id"], posting["metadata"], posting["replayed"]) == ("ext-1", {"a": 1}, False)


def test_a_debit_leaves_the_bank(app: Connection) -> None:
    account_id = open_account(app, 500)
    posting = call(app, "debit", account_id, 200)
    assert posting["debit_balance_after_minor"] == 300
    assert call(app, "balance", posting["credit_account_id"])["balance_minor"] == -300
    assert posting["transaction_type"] == "debit"


def test_a_debit_with_a_beneficiary_moves_to_the_beneficiarys_account(app: Connection) -> None:
    ada, bob = open_account(app, 500), open_account(app)
    posting = call(app, "debit", ada, 200, bob)
    assert (posting["transaction_type"], posting["credit_account_id"]) == ("debit", bob)
    assert (balance_of(app, ada), balance_of(app, bob)) == (300, 200)


def test_a_transfer_moves_money_in_both_directions_of_ids(app: Connection) -> None:
    ada, bob = open_account(app, 500), open_account(app, 500)
    call(app, "transfer", ada, bob, 200)
    posting = call(app, "transfer", bob, ada, 50)
    assert (posting["debit_balance_after_minor"], posting["credit_balance_after_minor"]) == (650, 350)
    assert (posting["debit_version"], posting["credit_version"]) == (3, 3)
    assert violations(app) == []


def test_a_posting_is_found_by_id_and_by_key_as_it_was_returned(app: Connection) -> None:
    account_id = open_account(app)
    posting = call(app, "credit", account_id, 5, "key-1")
    assert call(app, "get_transaction", posting["transaction_id"]) == posting
    assert call(app, "find_transaction", "key-1") == posting


def test_an_unknown_transaction_is_not_found(app: Connection) -> None:
    with raises("TLTXN", "transaction_not_found", "transaction_id"):
        call(app, "get_transaction", 99)
    with raises("TLTXN", "transaction_not_found", "idempotency_key"):
        call(app, "find_transaction", "nobody's")


def test_an_overdraft_may_be_used_to_its_last_cent(app: Connection) -> None:
    account_id = open_account(app, overdraft_limit_minor=100)
    assert call(app, "debit", account_id, 100)["debit_balance_after_minor"] == -100
    assert call(app, "debit", account_id, 1)["failure_code"] == "insufficient_funds"


def test_the_view_shows_the_seeds_shape(app: Connection) -> None:
    ada, bob = open_account(app, 500), open_account(app)
    call(app, "transfer", ada, bob, 200)
    call(app, "debit", ada, 9999)
    rows = app.execute(
        "select account_id, amount, transaction_type, transaction_status from bank.account_transaction"
        " order by transaction_id, account_id"
    ).fetchall()
    assert [tuple(row.values()) for row in rows] == [
        (ada, 500, "Credit", "Success"),
        (ada, 200, "Debit", "Success"),
        (bob, 200, "Credit", "Success"),
        (ada, 9999, "Debit", "Failure"),
    ]


# ---- rejections ----------------------------------------------------------------------------------------------------


def set_account(owner: Connection, account_id: int, **columns: object) -> None:
    """Change an account behind the functions' back, as nothing but a test does."""
    for name, value in columns.items():
        owner.execute(f"update bank.account set {name} = %s where account_id = %s".encode(), [value, account_id])


def assert_recorded_failure(app: Connection, posting: Row, code: str, facts: Row) -> None:
    assert (posting["transaction_status"], posting["failure_code"]) == ("failure", code)
    assert posting["failure_detail"] == facts
    for name in ("debit_balance_after_minor", "credit_balance_after_minor", "debit_version", "credit_version"):
        assert posting[name] is None
    assert call(app, "get_transaction", posting["transaction_id"]) == posting
    assert violations(app) == []


def test_a_transfer_leaves_both_balances_unchanged_when_funds_are_short(app: Connection) -> None:
    ada, bob = open_account(app, 500), open_account(app)
    posting = call(app, "transfer", ada, bob, 501)
    facts = {"account_id": ada, "needed_minor": 501, "available_minor": 500}
    assert_recorded_failure(app, posting, "insufficient_funds", facts)
    assert (balance_of(app, ada), balance_of(app, bob)) == (500, 0)


def test_held_money_is_not_available(app: Connection, owner: Connection) -> None:
    ada, bob = open_account(app, 500), open_account(app)
    set_account(owner, ada, held_minor=400)
    posting = call(app, "transfer", ada, bob, 101)
    assert posting["failure_detail"]["available_minor"] == 100


def test_money_is_not_moved_to_the_same_account(app: Connection) -> None:
    ada = open_account(app, 500)
    assert_recorded_failure(app, call(app, "transfer", ada, ada, 1), "same_account", {"account_id": ada})
    assert_recorded_failure(app, call(app, "debit", ada, 1, ada), "same_account", {"account_id": ada})


@pytest.mark.parametrize("status", ["closed", "frozen"])
@pytest.mark.parametrize("side", ["debit", "credit"])
def test_a_closed_or_frozen_account_takes_no_posting(
    app: Connection, owner: Connection, status: str, side: str
) -> None:
    ada, bob = open_account(app, 500), open_account(app)
    stopped = ada if side == "debit" else bob
    set_account(owner, stopped, account_status=status)
    assert_recorded_failure(app, call(app, "transfer", ada, bob, 1), f"account_{status}", {"account_id": stopped})


def test_currencies_do_not_mix(app: Connection) -> None:
    ada, bob = open_account(app, 500), open_account(app, currency="JPY")
    facts = {"debit_currency": "EUR", "credit_currency": "JPY"}
    assert_recorded_failure(app, call(app, "transfer", ada, bob, 1), "currency_mismatch", facts)


def test_no_balance_leaves_the_exact_range(app: Connection) -> None:
    ada, bob = open_account(app, overdraft_limit_minor=None), open_account(app, overdraft_limit_minor=None)
    assert call(app, "transfer", ada, bob, MAX)["credit_balance_after_minor"] == MAX
    posting = call(app, "transfer", ada, bob, 1)
    assert_recorded_failure(app, posting, "balance_overflow", {"account_id": ada, "amount_minor": 1})
    other = open_account(app, 5)
    posting = call(app, "transfer", other, bob, 5)
    assert_recorded_failure(app, posting, "balance_overflow", {"account_id": bob, "amount_minor": 5})


def test_rejections_have_a_fixed_order(app: Connection, owner: Connection) -> None:
    """All that can be wrong at once is wrong; what is mended shows the next."""
    full = open_account(app, MAX)
    ada, bob = open_account(app, currency="JPY"), open_account(app)
    call(app, "transfer", full, bob, MAX)
    set_account(owner, ada, account_status="frozen")
    set_account(owner, bob, account_status="closed")
    expected: list[tuple[str, Any]] = [
        ("account_closed", lambda: set_account(owner, bob, account_status="open")),
        ("account_frozen", lambda: set_account(owner, ada, account_status="open")),
        ("currency_mismatch", lambda: set_account(owner, ada, currency="EUR")),
        ("insufficient_funds", lambda: set_account(owner, ada, overdraft_limit_minor=10)),
        ("balance_overflow", lambda: call(app, "debit", bob, 10)),
    ]
    for code, mend in expected:
        assert call(app, "transfer", ada, bob, 10)["failure_code"] == code
        mend()
    assert call(app, "transfer", ada, bob, 10)["transaction_status"] == "success"
    set_account(owner, ada, account_status="closed")
    assert call(app, "transfer", ada, ada, 10)["failure_code"] == "same_account"


def test_require_success_rolls_a_composed_transaction_back(bank: Any, app: Connection) -> None:
    ada, bob = open_account(app, 500), open_account(app)
    with bank.connect(autocommit=False) as connection:
        query = "select bank.require_success(bank.transfer(%s, %s, %s))"
        connection.execute(query, [ada, bob, 100])
        with raises("TLREJ", "posting_rejected") as facts:
            connection.execute(query, [ada, bob, 9999])
        assert facts["failure_code"] == "insufficient_funds"
    assert (balance_of(app, ada), balance_of(app, bob)) == (500, 0)


# ---- malformed calls -----------------------------------------------------------------------------------------------

POSTINGS = ["bank.credit(2, {})", "bank.debit(2, {})", "bank.debit(2, {}, 3)", "bank.transfer(2, 3, {})"]
BAD_AMOUNTS = ["0", "-1", "1.5", "1e400", "'NaN'", "'Infinity'", "'-Infinity'", "9007199254740992"]
BAD_AMOUNTS += ["9223372036854775808", "null", "0.9999999999999999999", "-9223372036854775808"]


@pytest.mark.parametrize("posting", POSTINGS)
@pytest.mark.parametrize("amount", BAD_AMOUNTS)
def test_a_bad_amount_is_refused_and_records_nothing(
    app: Connection, owner: Connection, posting: str, amount: str
) -> None:
    open_account(app, 100)
    open_account(app, 100)
    before = count(owner, "transaction"), count(owner, "entry")
    with raises("TLAMT", "invalid_amount", "amount_minor"):
        app.execute(f"select {posting.format(amount)}".encode())
    assert (count(owner, "transaction"), count(owner, "entry")) == before


@pytest.mark.parametrize("posting", POSTINGS)
def test_the_largest_amount_is_2_to_the_53_less_1(app: Connection, posting: str) -> None:
    open_account(app, overdraft_limit_minor=None)
    open_account(app, overdraft_limit_minor=None)
    row = app.execute(f"select * from {posting.format(MAX)}".encode()).fetchone()
    assert row is not None
    assert (row["transaction_status"], row["amount_minor"]) == ("success", MAX)


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"idempotency_key": " \t"}, "idempotency_key"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "x" * 256}, "idempotency_key"),
        ({"description": "x" * 501}, "description"),
        ({"external_id": "x" * 256}, "external_id"),
        ({"metadata": "7"}, "metadata"),
        ({"metadata": '{"a": "' + "x" * 8192 + '"}'}, "metadata"),
    ],
)
def test_texts_of_a_posting_are_checked(app: Connection, named: Row, field: str) -> None:
    account_id = open_account(app)
    with raises("TLARG", "invalid_argument", field):
        call(app, "credit", account_id, 1, **named)


@pytest.mark.parametrize(
    ("posting", "field"),
    [
        ("bank.credit(99, 1)", "account_id"),
        ("bank.debit(99, 1)", "account_id"),
        ("bank.debit(99, 1, 98)", "account_id"),
        ("bank.debit(2, 1, 98)", "beneficiary_account_id"),
        ("bank.transfer(99, 98, 1)", "debit_account_id"),
        ("bank.transfer(2, 98, 1)", "credit_account_id"),
    ],
)
def test_an_unknown_account_is_named_as_the_caller_named_it(
    app: Connection, owner: Connection, posting: str, field: str
) -> None:
    open_account(app)
    with raises("TLACC", "account_not_found", field) as facts:
        app.execute(f"select {posting}".encode())
    assert facts["account_id"] in (98, 99)
    assert count(owner, "transaction") == 0


@pytest.mark.parametrize(
    ("posting", "field"),
    [
        ("bank.credit(null, 1)", "account_id"),
        ("bank.debit(null, 1)", "account_id"),
        ("bank.transfer(null, 2, 1)", "debit_account_id"),
        ("bank.transfer(2, null, 1)", "credit_account_id"),
    ],
)
def test_a_null_account_is_required(app: Connection, posting: str, field: str) -> None:
    open_account(app)
    with raises("TLARG", "invalid_argument", field):
        app.execute(f"select {posting}".encode())


def test_malformed_calls_have_a_fixed_order(app: Connection) -> None:
    with raises("TLAMT", "invalid_amount"):
        call(app, "transfer", 98, 99, 0, " ")
    with raises("TLARG", "invalid_argument"):
        call(app, "transfer", 98, 99, 1, " ")
    account_id = open_account(app)
    call(app, "credit", account_id, 1, "key-1")
    with raises("TLACC", "account_not_found"):
        call(app, "transfer", 98, 99, 1, "key-1")


# ---- idempotency ---------------------------------------------------------------------------------------------------


def test_a_retry_returns_the_first_outcome_and_posts_nothing(app: Connection, owner: Connection) -> None:
    ada, bob = open_account(app, 500), open_account(app)
    first = call(app, "transfer", ada, bob, 100, "key-1", metadata='{"b": 1, "a": [2]}')
    call(app, "transfer", ada, bob, 50)
    entries = count(owner, "entry")
    again = call(app, "transfer", ada, bob, 100, "key-1", metadata='{"a": [2], "b": 1}')
    assert again == {**first, "replayed": True}
    assert count(owner, "entry") == entries


def test_a_retry_of_a_failure_is_the_same_failure_even_when_it_would_now_succeed(app: Connection) -> None:
    ada, bob = open_account(app), open_account(app)
    first = call(app, "transfer", ada, bob, 100, "key-1")
    call(app, "credit", ada, 1000)
    assert call(app, "transfer", ada, bob, 100, "key-1") == {**first, "replayed": True}
    assert balance_of(app, bob) == 0


def test_a_retry_of_a_success_is_the_success_even_when_it_would_now_fail(app: Connection, owner: Connection) -> None:
    ada = open_account(app)
    first = call(app, "credit", ada, 100, "key-1")
    set_account(owner, ada, account_status="closed")
    assert call(app, "credit", ada, 100, "key-1") == {**first, "replayed": True}


@pytest.mark.parametrize(
    ("posting", "field"),
    [
        ("bank.transfer(3, 2, 10, 'k', 'd', 'e', '{\"a\": 1}')", "debit_account_id"),
        ("bank.transfer(2, 4, 10, 'k', 'd', 'e', '{\"a\": 1}')", "credit_account_id"),
        ("bank.transfer(2, 3, 11, 'k', 'd', 'e', '{\"a\": 1}')", "amount_minor"),
        ("bank.transfer(2, 3, 10, 'k', 'D', 'e', '{\"a\": 1}')", "description"),
        ("bank.transfer(2, 3, 10, 'k', null, 'e', '{\"a\": 1}')", "description"),
        ("bank.transfer(2, 3, 10, 'k', 'd', null, '{\"a\": 1}')", "external_id"),
        ("bank.transfer(2, 3, 10, 'k', 'd', 'e', '{\"a\": 2}')", "metadata"),
        ("bank.transfer(2, 3, 10, 'k', 'd', 'e')", "metadata"),
        ("bank.debit(2, 10, 3, 'k', 'd', 'e', '{\"a\": 1}')", "transaction_type"),
        ("bank.credit(2, 10, 'k', 'd', 'e', '{\"a\": 1}')", "transaction_type"),
    ],
)
def test_another_request_with_a_used_key_is_refused(
    app: Connection, owner: Connection, posting: str, field: str
) -> None:
    for _ in range(3):
        open_account(app, 100)
    first = call(app, "transfer", 2, 3, 10, "k", "d", "e", '{"a": 1}')
    transactions = count(owner, "transaction")
    with raises("TLKEY", "idempotency_key_reused", field) as facts:
        app.execute(f"select {posting}".encode())
    assert facts["transaction_id"] == first["transaction_id"]
    assert count(owner, "transaction") == transactions


def test_a_key_is_free_again_when_its_transaction_rolled_back(bank: Any, app: Connection) -> None:
    account_id = open_account(app)
    with bank.connect(autocommit=False) as connection:
        call(connection, "credit", account_id, 10, "key-1")
        connection.rollback()
    assert call(app, "credit", account_id, 20, "key-1")["replayed"] is False


def test_without_a_key_every_call_posts(app: Connection) -> None:
    account_id = open_account(app)
    for _ in range(2):
        call(app, "credit", account_id, 10)
    assert balance_of(app, account_id) == 20


# ---- ledgers -------------------------------------------------------------------------------------------------------


def test_ledgers_see_nothing_of_each_other(app: Connection, owner: Connection) -> None:
    other = call(owner, "create_ledger", "Other")["ledger_id"]
    ours = open_account(app, 100, external_id="x")
    theirs = open_account(app, 100, external_id="x", ledger_id=other)
    call(app, "credit", ours, 1, "key")
    assert call(app, "credit", theirs, 2, "key", ledger_id=other)["replayed"] is False
    with raises("TLACC", "account_not_found"):
        call(app, "balance", theirs)
    with raises("TLACC", "account_not_found", "credit_account_id"):
        call(app, "transfer", ours, theirs, 1)
    with raises("TLTXN", "transaction_not_found"):
        call(app, "get_transaction", call(app, "find_transaction", "key", ledger_id=other)["transaction_id"])
    settlements = app.execute("select ledger_id from bank.account_detail where account_type = 'asset'").fetchall()
    assert sorted(row["ledger_id"] for row in settlements) == [1, other]
    assert violations(app) == []


def test_an_unknown_ledger_opens_no_account(app: Connection) -> None:
    with raises("TLLED", "ledger_not_found", "ledger_id"):
        call(app, "open_account", "Ada", "EUR", ledger_id=99)


def test_statement_lines_of_a_failure_do_not_exist(app: Connection) -> None:
    account_id = open_account(app)
    call(app, "debit", account_id, 1)
    assert call_all(app, "statement", account_id) == []
