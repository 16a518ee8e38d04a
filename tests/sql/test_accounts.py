"""Opening an account, its balance and its statement."""

import pytest

from tests.conftest import Connection
from tests.helpers import call, call_all, count, open_account, raises

MAX = 2**53 - 1


def test_a_new_account_is_open_and_empty(app: Connection) -> None:
    account = call(app, "open_account", "Ada", "EUR", metadata='{"tier": 1}', external_id="customer-1")
    assert account["account_status"] == "open"
    assert (account["balance_minor"], account["held_minor"], account["available_balance_minor"]) == (0, 0, 0)
    assert (account["version"], account["overdraft_limit_minor"]) == (0, 0)
    assert (account["external_id"], account["metadata"]) == ("customer-1", {"tier": 1})
    assert (account.pop("replayed"), account.pop("failure_code"), account.pop("failure_detail")) == (False, None, None)
    assert call(app, "account", account["account_id"]) == account


def test_the_overdraft_counts_as_available(app: Connection) -> None:
    account = call(app, "open_account", "Ada", "EUR", overdraft_limit_minor=500)
    assert account["available_balance_minor"] == 500


def test_a_null_overdraft_limit_is_unlimited(app: Connection) -> None:
    account = call(app, "open_account", "Ada", "EUR", None)
    assert (account["overdraft_limit_minor"], account["available_balance_minor"]) == (None, None)
    debited = app.execute("select * from bank.debit(%s, %s)", [account["account_id"], MAX]).fetchone()
    assert debited is not None
    assert debited["debit_balance_after_minor"] == -MAX


def test_the_first_account_of_a_currency_opens_its_settlement_account_once(app: Connection) -> None:
    for currency in ("EUR", "EUR", "JPY"):
        open_account(app, currency=currency)
    rows = app.execute(
        "select currency from bank.account_detail where account_type = 'asset' order by currency"
    ).fetchall()
    assert [row["currency"] for row in rows] == ["EUR", "JPY"]


@pytest.mark.parametrize("name", [None, "", "   ", "\u3000\u00a0", "x" * 101])
def test_a_missing_blank_or_overlong_holder_name_is_refused(app: Connection, name: str | None) -> None:
    with raises("TLARG", "invalid_argument", "holder_name"):
        call(app, "open_account", name, "EUR")


@pytest.mark.parametrize("currency", ["eur", "EURO", "XXX", "", "E"])
def test_an_unknown_currency_is_refused(app: Connection, currency: str) -> None:
    with raises("TLCUR", "unknown_currency", "currency"):
        call(app, "open_account", "Ada", currency)


@pytest.mark.parametrize("limit", ["-1", "1.5", "NaN", "Infinity", str(2**53), "1e400"])
def test_an_overdraft_limit_is_a_whole_number_in_range(app: Connection, limit: str) -> None:
    with raises("TLARG", "invalid_argument", "overdraft_limit_minor"):
        app.execute("select bank.open_account('Ada', 'EUR', %s::numeric)", [limit])


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"external_id": " "}, "external_id"),
        ({"external_id": "x" * 256}, "external_id"),
        ({"metadata": "[]"}, "metadata"),
        ({"metadata": '{"a": "' + "x" * 8192 + '"}'}, "metadata"),
    ],
)
def test_texts_of_an_account_are_checked(app: Connection, named: dict[str, str], field: str) -> None:
    with raises("TLARG", "invalid_argument", field):
        call(app, "open_account", "Ada", "EUR", **named)


def test_an_external_id_is_taken_once(app: Connection, owner: Connection) -> None:
    first = open_account(app, external_id="customer-1")
    accounts = count(owner, "account")
    with raises("TLEXT", "external_id_taken", "external_id") as facts:
        call(app, "open_account", "Eve", "EUR", external_id="customer-1")
    assert facts["account_id"] == first
    assert count(owner, "account") == accounts


@pytest.mark.parametrize("function", ["account", "balance", "statement"])
def test_an_unknown_account_is_not_found(app: Connection, function: str) -> None:
    with raises("TLACC", "account_not_found", "account_id"):
        call_all(app, function, 99)


def test_a_balance_says_its_version(app: Connection) -> None:
    account_id = open_account(app, balance_minor=700)
    balance = call(app, "balance", account_id)
    assert (balance["balance_minor"], balance["available_balance_minor"], balance["version"]) == (700, 700, 1)


def test_a_statement_is_paged_newest_first_without_gaps(app: Connection) -> None:
    account_id = open_account(app)
    for amount in range(1, 8):
        call(app, "credit", account_id, amount)
    lines = []
    before = None
    while page := call_all(app, "statement", account_id, before, 3):
        lines += page
        before = page[-1]["version"]
    assert [line["version"] for line in lines] == [7, 6, 5, 4, 3, 2, 1]
    assert [line["amount_minor"] for line in lines] == [7, 6, 5, 4, 3, 2, 1]
    assert [line["balance_after_minor"] for line in lines] == [28, 21, 15, 10, 6, 3, 1]


def test_a_statement_signs_amounts_and_names_the_other_side(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    call(app, "transfer", ada, bob, 30, description="Lunch")
    line = call_all(app, "statement", ada)[0]
    assert (line["amount_minor"], line["counterparty_account_id"], line["description"]) == (-30, bob, "Lunch")
    line = call_all(app, "statement", bob)[0]
    assert (line["amount_minor"], line["counterparty_account_id"]) == (30, ada)


@pytest.mark.parametrize(
    ("before", "size", "field"),
    [(None, 0, "page_size"), (None, 1001, "page_size"), (0, 1, "before_version"), (None, None, "page_size")],
)
def test_a_page_has_limits(app: Connection, before: int | None, size: int | None, field: str) -> None:
    account_id = open_account(app)
    with raises("TLARG", "invalid_argument", field):
        call_all(app, "statement", account_id, before, size)
