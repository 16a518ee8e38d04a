"""Calls that many tests make, in the words of the tests."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Connection

Row = dict[str, Any]


def call(connection: Connection, function: str, *arguments: object, **named: object) -> Row:
    """Call a function of schema bank and return its one row."""
    rows = call_all(connection, function, *arguments, **named)
    assert len(rows) == 1
    return rows[0]


def call_all(connection: Connection, function: str, *arguments: object, **named: object) -> list[Row]:
    """Call a function of schema bank and return its rows."""
    parts = [sql.SQL("%s") for _ in arguments]
    parts += [sql.SQL("{} => %s").format(sql.Identifier(name)) for name in named]  # type: ignore[misc]
    query = sql.SQL("select * from bank.{}({})").format(sql.Identifier(function), sql.SQL(", ").join(parts))
    return connection.execute(query, [*arguments, *named.values()]).fetchall()


def open_account(connection: Connection, balance_minor: int = 0, currency: str = "EUR", **named: object) -> int:
    """Open an account with this balance and return its id."""
    account_id: int = call(connection, "open_account", "Ada", currency, **named)["account_id"]
    if balance_minor:
        credited = call(
            connection, "credit", account_id, balance_minor, **{k: v for k, v in named.items() if k == "ledger_id"}
        )
        assert credited["transaction_status"] == "success"
    return account_id


def balance_of(connection: Connection, account_id: int) -> int:
    """Return the posted balance."""
    balance: int = call(connection, "balance", account_id)["balance_minor"]
    return balance


def count(owner: Connection, table: str) -> int:
    """Return how many rows a table of schema bank has."""
    row = owner.execute(sql.SQL("select count(*) as n from bank.{}").format(sql.Identifier(table))).fetchone()
    assert row is not None
    number: int = row["n"]
    return number


def violations(connection: Connection) -> list[Row]:
    """Return what verify() finds in every ledger."""
    return connection.execute("select * from bank.verify(null)").fetchall()


def violations_of_slices(connection: Connection, rows_max: int, ledger_id: int | None = None) -> list[Row]:
    """Return what verify_slice() finds, call after call until nothing is left, in verify()'s columns."""
    found: list[Row] = []
    place: str | None = ""
    while place is not None:
        (checked,) = connection.execute(
            "select * from bank.verify_slice(%s, %s, %s)", [place or None, rows_max, ledger_id]
        ).fetchall()
        found += checked["violations"]
        assert checked["next_place"] != place
        place = checked["next_place"]
    return found


Way = Callable[[Connection], list[Row]]

# The ways to verify every ledger, for tests that hold of each.
WAYS: list[Way] = [
    violations,
    *(partial(violations_of_slices, rows_max=rows_max) for rows_max in (1, 2, 7, 10_000)),
]
WAY_IDS = ["whole", "slices of 1", "slices of 2", "slices of 7", "one slice"]


def without_transaction_of_sum(row: Row) -> Row:
    """The row, as verify() tells it: slices tell a sum that is not zero by transaction, verify() by ledger."""
    return {**row, "transaction_id": None} if row["violation"] == "currency_does_not_sum_to_zero" else row


@contextmanager
def raises(sqlstate: str, code: str, field: str | None = None) -> Iterator[Row]:
    """Expect an error of the catalogue; the facts of its DETAIL are in the dict after the block."""
    facts: Row = {}
    with pytest.raises(psycopg.Error) as caught:
        yield facts
    assert (caught.value.sqlstate, caught.value.diag.message_primary) == (sqlstate, code)
    facts.update(json.loads(caught.value.diag.message_detail or "{}"))
    assert "reason" in facts
    if field is not None:
        assert facts["field"] == field


def expire(owner: Connection, hold_id: int) -> None:
    """Let the deadline of a hold have passed."""
    owner.execute("update bank.hold set expires_at = now() - interval '1 second' where hold_id = %s", [hold_id])


def codes(rows: list[Row]) -> list[str | None]:
    """Return the failure code of each posting; null for a success."""
    return [row["failure_code"] for row in rows]


def authorise(
    connection: Connection, account_id: int, amount_minor: int, beneficiary: int | None = None, **named: object
) -> int:
    """Reserve money of an account and return the hold's id."""
    posted = call(connection, "authorise", account_id, amount_minor, beneficiary, **named)
    assert posted["failure_code"] is None
    hold_id: int = posted["transaction_id"]
    return hold_id


def hold_state(connection: Connection, hold_id: int) -> tuple[str, int, int]:
    """Return a hold's status, what was captured, and what is held."""
    hold = call(connection, "hold", hold_id)
    assert (hold["hold_status"] == "open") == (hold["ended_at"] is None)
    return hold["hold_status"], hold["captured_minor"], hold["held_minor"]


def balances_of(connection: Connection, account_id: int) -> tuple[int, int, int]:
    """Return the posted, the held and the available balance."""
    row = call(connection, "balance", account_id)
    return row["balance_minor"], row["held_minor"], row["available_balance_minor"]


def hold_other_stripes(holder: Connection, account_id: int, number: int) -> None:
    """Lock every stripe of an account but this one, in the holder's open transaction: who posts to it posts there."""
    locked = holder.execute(
        "select from bank.account where bank._account_of(account_id) = %(account_id)s and stripes = -1"
        " and account_id <> bank._stripe_id(%(account_id)s, %(number)s) for no key update nowait",
        {"account_id": account_id, "number": number},
    )
    assert locked.rowcount > 0
