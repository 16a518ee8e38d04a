"""Amounts as SQL types and literals hand them over, and what is said of those that are refused."""

from decimal import Decimal

import psycopg
import pytest

from tests.conftest import Connection
from tests.helpers import call, count, open_account, raises

MAX = 2**53 - 1


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        (None, "is required"),
        ("0", "is not more than zero"),
        ("-1", "is not more than zero"),
        ("0.5", "is not a whole number of minor units"),
        ("1.5", "is not a whole number of minor units"),
        ("1.0001", "is not a whole number of minor units"),
        ("NaN", "is not a finite number"),
        ("Infinity", "is not a finite number"),
        ("-Infinity", "is not a finite number"),
        (str(2**53), "is more than 9007199254740991"),
        (str(2**63), "is more than 9007199254740991"),
        ("1e400", "is more than 9007199254740991"),
    ],
)
def test_a_refused_amount_is_told_why(app: Connection, amount: str | None, reason: str) -> None:
    account_id = open_account(app)
    with raises("TLAMT", "invalid_amount", "amount_minor") as facts:
        app.execute("select bank.credit(%s, %s::numeric)", [account_id, amount])
    assert facts["reason"] == reason


@pytest.mark.parametrize("amount", ["1::float8", "1::text", "'ten'"])
def test_an_amount_of_another_type_is_refused_by_postgresql_and_posts_nothing(
    app: Connection, owner: Connection, amount: str
) -> None:
    account_id = open_account(app)
    with pytest.raises((psycopg.errors.UndefinedFunction, psycopg.errors.InvalidTextRepresentation)):
        app.execute(f"select bank.credit({account_id}, {amount})".encode())
    assert count(owner, "transaction") == 0


@pytest.mark.parametrize("amount", ["'1'", "1", "1.0", "1e0", "1::smallint", "1::bigint"])
def test_a_whole_number_is_one_however_it_is_written(app: Connection, amount: str) -> None:
    account_id = open_account(app)
    row = app.execute(f"select amount_minor from bank.credit({account_id}, {amount})".encode()).fetchone()
    assert row == {"amount_minor": 1}


def test_a_retry_may_write_the_same_amount_otherwise(app: Connection) -> None:
    account_id = open_account(app)
    first = call(app, "credit", account_id, 100, "key-1")
    assert call(app, "credit", account_id, Decimal("1.00e2"), "key-1") == {**first, "replayed": True}


def test_the_largest_overdraft_limit_is_the_largest_amount(app: Connection) -> None:
    account = call(app, "open_account", "Ada", "EUR", MAX)
    assert (account["overdraft_limit_minor"], account["available_balance_minor"]) == (MAX, MAX)
    assert call(app, "debit", account["account_id"], MAX)["debit_balance_after_minor"] == -MAX


def test_what_is_not_held_keeps_the_exact_range(app: Connection) -> None:
    account_id = open_account(app, overdraft_limit_minor=None)
    assert call(app, "authorise", account_id, MAX)["failure_code"] is None
    assert call(app, "authorise", account_id, 1)["failure_code"] == "balance_overflow"
    assert call(app, "balance", account_id)["held_minor"] == MAX
