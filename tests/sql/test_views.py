"""What may be read: the columns are an interface."""

from typing import Any

import pytest

from tests.conftest import Bank, Connection
from tests.helpers import call, call_all, open_account

VIEWS = ("account_balance", "account_detail", "account_transaction", "posting", "statement_line", "currency", "error")


@pytest.mark.parametrize("role", ["bank_app", "bank_reader"])
@pytest.mark.parametrize("view", VIEWS)
def test_app_and_reader_read_every_public_view(bank: Bank, role: str, view: str) -> None:
    with bank.connect(role) as connection:
        connection.execute(f"select * from bank.{view}".encode())


def seed_rows(app: Connection) -> list[tuple[Any, ...]]:
    rows = app.execute("select * from bank.account_transaction order by transaction_id, transaction_type desc")
    return [tuple(row.values()) for row in rows]


def test_the_seeds_view_has_its_columns_and_their_values(app: Connection) -> None:
    ada = open_account(app)
    posting = call(app, "credit", ada, 500)
    assert seed_rows(app) == [(posting["transaction_id"], ada, 500, "Credit", "Success", posting["created_at"], 1)]
    described = app.execute("select * from bank.account_transaction").description
    assert described is not None
    assert [column.name for column in described] == [
        "transaction_id",
        "account_id",
        "amount",
        "transaction_type",
        "transaction_status",
        "timestamp",
        "ledger_id",
    ]


def test_the_seeds_view_shows_a_failure_on_each_account_that_it_names(app: Connection) -> None:
    ada, bob = open_account(app), open_account(app)
    call(app, "transfer", ada, bob, 1)
    call(app, "transfer", ada, ada, 1)
    assert [row[1:5] for row in seed_rows(app)] == [
        (ada, 1, "Debit", "Failure"),
        (bob, 1, "Credit", "Failure"),
        (ada, 1, "Debit", "Failure"),
        (ada, 1, "Credit", "Failure"),
    ]


def test_views_say_what_the_functions_say(app: Connection, owner: Connection) -> None:
    ada = open_account(app, 500, overdraft_limit_minor=50)
    owner.execute("update bank.account set held_minor = 30 where account_id = %s", [ada])
    posting = call(app, "debit", ada, 100, description="Rent", external_id="rent-1")
    assert app.execute("select * from bank.account_detail where account_id = %s", [ada]).fetchall() == [
        call(app, "account", ada)
    ]
    (balance,) = app.execute("select * from bank.account_balance where account_id = %s", [ada]).fetchall()
    assert {**balance, "as_of": None} == {**call(app, "balance", ada), "as_of": None}
    assert (balance["balance_minor"], balance["held_minor"], balance["available_balance_minor"]) == (400, 30, 420)
    assert call(app, "account", ada)["available_balance_minor"] == 420
    assert app.execute("select * from bank.posting where external_id = 'rent-1'").fetchall() == [posting]
    lines = app.execute("select * from bank.statement_line where account_id = %s order by version desc", [ada])
    assert lines.fetchall() == call_all(app, "statement", ada)


def test_a_statement_line_is_the_side_of_its_account(app: Connection) -> None:
    ada = open_account(app, 500)
    posting = call(app, "debit", ada, 100, description="Rent", external_id="rent-1")
    assert call_all(app, "statement", ada)[0] == {
        "account_id": ada,
        "version": 2,
        "transaction_id": posting["transaction_id"],
        "transaction_type": "debit",
        "amount_minor": -100,
        "balance_after_minor": 400,
        "counterparty_account_id": posting["credit_account_id"],
        "description": "Rent",
        "external_id": "rent-1",
        "created_at": posting["created_at"],
        "ledger_id": 1,
    }


def test_a_page_may_have_a_thousand_lines_and_may_start_past_the_newest(app: Connection) -> None:
    ada = open_account(app, 500)
    call(app, "debit", ada, 1)
    assert [line["version"] for line in call_all(app, "statement", ada, 2**62, 1000)] == [2, 1]
    assert [line["version"] for line in call_all(app, "statement", ada, 2, 1)] == [1]
    assert call_all(app, "statement", ada, 1, 1) == []
