"""Two ledgers with the same keys and names: no function reaches across."""

from typing import Any

import psycopg
import pytest

from service.installation import ROOT
from tests.conftest import Connection
from tests.helpers import Row, call, call_all, open_account, raises, violations


@pytest.fixture
def other(owner: Connection) -> int:
    """A second ledger."""
    ledger_id: int = call(owner, "create_ledger", "Other")["ledger_id"]
    return ledger_id


def test_a_ledger_needs_a_name(owner: Connection) -> None:
    for name in (None, "", " "):
        with pytest.raises(psycopg.IntegrityError):
            call(owner, "create_ledger", name)


@pytest.mark.parametrize(
    ("function", "arguments", "field"),
    [
        ("account", ["theirs"], "account_id"),
        ("balance", ["theirs"], "account_id"),
        ("statement", ["theirs"], "account_id"),
        ("credit", ["theirs", 1], "account_id"),
        ("debit", ["theirs", 1], "account_id"),
        ("debit", ["ours", 1, "theirs"], "beneficiary_account_id"),
        ("debit", ["theirs", 1, "ours"], "account_id"),
        ("transfer", ["theirs", "ours", 1], "debit_account_id"),
        ("transfer", ["ours", "theirs", 1], "credit_account_id"),
    ],
)
def test_an_account_of_another_ledger_is_not_found(
    app: Connection, other: int, function: str, arguments: list[str | int], field: str
) -> None:
    ids = {"ours": open_account(app, 100), "theirs": open_account(app, 100, ledger_id=other)}
    with raises("TLACC", "account_not_found", field) as facts:
        call_all(app, function, *[ids.get(str(argument), argument) for argument in arguments])
    assert facts["account_id"] == ids["theirs"]
    assert violations(app) == []


def test_a_transaction_of_another_ledger_is_not_found(app: Connection, other: int) -> None:
    theirs = call(app, "credit", open_account(app, ledger_id=other), 1, "k", ledger_id=other)
    with raises("TLTXN", "transaction_not_found", "transaction_id"):
        call(app, "get_transaction", theirs["transaction_id"])
    with raises("TLTXN", "transaction_not_found", "idempotency_key"):
        call(app, "find_transaction", "k")
    assert call(app, "get_transaction", theirs["transaction_id"], other) == theirs
    assert call(app, "find_transaction", "k", other) == theirs


def test_each_ledger_credits_from_its_own_settlement_account(app: Connection, other: int) -> None:
    def credit(ledger_id: int, amount_minor: int) -> Row:
        return call(app, "credit", open_account(app, ledger_id=ledger_id), amount_minor, ledger_id=ledger_id)

    ours, theirs = credit(1, 5), credit(other, 7)
    assert ours["debit_account_id"] != theirs["debit_account_id"]
    assert call(app, "balance", ours["debit_account_id"])["balance_minor"] == -5
    assert call(app, "balance", theirs["debit_account_id"], other)["balance_minor"] == -7
    assert (ours["ledger_id"], theirs["ledger_id"]) == (1, other)


def test_ledgers_may_number_their_accounts_alike(app: Connection, owner: Connection, other: int) -> None:
    """One sequence numbers all accounts here; in a distributed installation nothing rests on that."""
    ours = open_account(app)
    owner.execute(
        """
        insert into bank.account (
            ledger_id, account_id, holder_name, currency, settlement, overdraft_limit_minor, stripes
        )
        select %s, account_id, holder_name, currency, settlement, overdraft_limit_minor, stripes
        from bank.account
        """,
        [other],
    )
    credited = {1: [1, 2], other: [30, 40, 50]}
    for ledger_id, amounts in credited.items():
        for amount in amounts:
            assert call(app, "credit", ours, amount, ledger_id=ledger_id)["ledger_id"] == ledger_id
    for ledger_id, amounts in credited.items():
        lines = call_all(app, "statement", ours, ledger_id=ledger_id)
        assert [line["amount_minor"] for line in lines] == amounts[::-1]
        assert call(app, "balance", ours, ledger_id)["balance_minor"] == sum(amounts)
        assert call(app, "account", ours, ledger_id)["version"] == len(amounts)
    assert violations(app) == []


def test_verify_looks_at_one_ledger_or_at_all(app: Connection, owner: Connection, other: int) -> None:
    theirs = open_account(app, 100, ledger_id=other)
    owner.execute("update bank.account set version = 9 where account_id = %s", [theirs])

    def found(ledger_id: int | None) -> list[Any]:
        return [(row["ledger_id"], row["account_id"]) for row in call_all(app, "verify", ledger_id)]

    assert (found(1), found(other), found(None)) == ([], [(other, theirs)], [(other, theirs)])
    assert found(99) == []


def test_money_may_leave_a_currency_that_only_came_from_another_ledger(app: Connection, other: int) -> None:
    euros, yen = open_account(app, ledger_id=other), open_account(app, 100, currency="JPY")
    refused = call(app, "transfer_to_ledger", yen, other, euros, 100)
    assert refused["failure_code"] == "currency_mismatch"
    rows = app.execute(
        "select account_id from bank.account_detail where ledger_id = %s and holder_name = 'Clearing JPY'", [other]
    ).fetchall()
    assert call(app, "debit", rows[0]["account_id"], 5, ledger_id=other)["transaction_status"] == "success"
    assert violations(app) == []


def test_a_ledger_is_archived_as_the_docs_say(app: Connection, owner: Connection, other: int) -> None:
    ours, theirs = open_account(app, 500), open_account(app, 300, ledger_id=other)
    call(app, "open_account", "Ada", "EUR", idempotency_key="ada", ledger_id=other)
    call(owner, "create_api_key", "branch", b"x" * 32, ["admin"], ledger_id=other)
    call(app, "authorise", theirs, 100, ledger_id=other)
    call(app, "set_limit", theirs, "day", 1000, ledger_id=other)
    call(app, "transfer_to_ledger", theirs, 1, ours, 50, ledger_id=other)
    rows = owner.execute(
        """
        select c.table_name
        from information_schema.columns as c
        inner join information_schema.tables as t using (table_schema, table_name)
        where c.table_schema = 'bank' and c.column_name = 'ledger_id' and t.table_type = 'BASE TABLE'
        """
    ).fetchall()
    tables = {row["table_name"] for row in rows}

    def with_rows() -> set[str]:
        found = {}
        for table in tables:
            query = f"select exists (select from bank.{table} where ledger_id = %s) as found"
            (found[table],) = owner.execute(query.encode(), [other]).fetchall()
        return {table for table, row in found.items() if row["found"]}

    assert with_rows() == tables
    page = (ROOT / "docs" / "history.md").read_text()
    block = page.partition("```sql\n")[2].partition("```")[0]
    owner.execute(block.replace("= 7", f"= {other}").encode())
    assert with_rows() == set()
    assert call(app, "balance", ours)["balance_minor"] == 550
    assert violations(app) == []
