"""Windowed limits: days, weeks from Monday and months in UTC, and what changes of a limit do to what is used."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Connection
from tests.helpers import Row, call, call_all, codes, open_account, violations


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 1000)


def spend(app: Connection, account_id: int, amount: int) -> str | None:
    code: str | None = call(app, "debit", account_id, amount)["failure_code"]
    return code


def limit_of(app: Connection, account_id: int) -> Row:
    (row,) = call_all(app, "limits", account_id)
    return row


@pytest.mark.parametrize(
    ("kind", "at", "start"),
    [
        ("day", "2026-03-01 00:00:00+00", "2026-03-01"),
        ("day", "2026-02-28 23:59:59.999999+00", "2026-02-28"),
        ("day", "2026-03-01 01:30:00+02", "2026-02-28"),
        ("week", "2026-01-04 23:59:59.999999+00", "2025-12-29"),
        ("week", "2026-01-05 00:00:00+00", "2026-01-05"),
        ("week", "2026-01-11 12:00:00+00", "2026-01-05"),
        ("month", "2026-02-28 23:59:59.999999+00", "2026-02-01"),
        ("month", "2024-02-29 12:00:00+00", "2024-02-01"),
        ("month", "2026-12-31 22:00:00-03", "2027-01-01"),
        ("transaction", "2026-03-01 00:00:00+00", None),
        ("minimum_balance", "2026-03-01 00:00:00+00", None),
    ],
)
@pytest.mark.parametrize("timezone", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
def test_windows_are_those_of_utc_whatever_the_session_s_time_zone(
    owner: Connection, kind: str, at: str, start: str | None, timezone: str
) -> None:
    owner.execute(f"set timezone = '{timezone}'".encode())
    row = owner.execute("select bank._window_start(%s, %s) as start", [kind, at]).fetchone()
    expected = dt.datetime.fromisoformat(start).replace(tzinfo=dt.UTC) if start else None
    assert row == {"start": expected}


@pytest.mark.parametrize("kind", ["day", "week", "month"])
def test_a_new_window_begins_with_nothing_used(app: Connection, owner: Connection, ada: int, kind: str) -> None:
    call(app, "set_limit", ada, kind, 100, 2)
    assert [spend(app, ada, amount) for amount in (90, 10, 1)] == [None, None, f"{kind}_amount_exceeded"]
    started_at = limit_of(app, ada)["window_started_at"]
    owner.execute(
        "update bank.account_limit set window_started_at = bank._window_start(limit_kind, now() - %s::interval)",
        [f"1 {kind}"],
    )
    assert spend(app, ada, 99) is None
    row = limit_of(app, ada)
    assert (row["used_minor"], row["used_count"], row["window_started_at"]) == (99, 1, started_at)
    assert [spend(app, ada, amount) for amount in (1, 1)] == [None, f"{kind}_amount_exceeded"]
    assert violations(app) == []


def test_a_new_window_begins_with_nothing_used_in_a_batch_too(app: Connection, owner: Connection, ada: int) -> None:
    bob = open_account(app)
    call(app, "set_limit", ada, "day", 100, 1)
    assert spend(app, ada, 100) is None
    started_at = limit_of(app, ada)["window_started_at"]
    owner.execute("update bank.account_limit set window_started_at = window_started_at - interval '1 day'")
    rows = call_all(app, "post_transfers", [ada, ada], [bob, bob], [99, 1])
    assert codes(rows) == [None, "day_count_exceeded"]
    row = limit_of(app, ada)
    assert (row["used_minor"], row["used_count"], row["window_started_at"]) == (99, 1, started_at)
    assert violations(app) == []


def test_a_limit_that_is_changed_keeps_what_is_used(app: Connection, ada: int) -> None:
    call(app, "set_limit", ada, "day", 100)
    assert spend(app, ada, 80) is None
    call(app, "set_limit", ada, "day", 50, 1)
    assert (limit_of(app, ada)["used_minor"], limit_of(app, ada)["used_count"]) == (80, 1)
    assert spend(app, ada, 1) == "day_amount_exceeded"
    call(app, "set_limit", ada, "day", None, 1)
    assert spend(app, ada, 1) == "day_count_exceeded"
    call(app, "set_limit", ada, "day", 81)
    assert [spend(app, ada, amount) for amount in (2, 1)] == ["day_amount_exceeded", None]
    assert violations(app) == []


def test_a_credit_passes_a_window_that_is_used_up(app: Connection, ada: int) -> None:
    bob = open_account(app, 100)
    call(app, "set_limit", ada, "day", 100, 1)
    assert spend(app, ada, 80) is None
    call(app, "set_limit", ada, "day", 10, 1)
    assert call(app, "credit", ada, 5)["failure_code"] is None
    assert call(app, "post_legs", [bob, ada], [-5, 5])["failure_code"] is None
    assert call(app, "post_transfers", [bob], [ada], [5])["failure_code"] is None
    assert violations(app) == []


def test_a_limit_that_is_taken_away_and_set_again_begins_anew(app: Connection, ada: int) -> None:
    call(app, "set_limit", ada, "day", 100)
    assert spend(app, ada, 80) is None
    call(app, "set_limit", ada, "day")
    assert call_all(app, "limits", ada) == []
    assert spend(app, ada, 500) is None
    call(app, "set_limit", ada, "day", 100)
    assert [spend(app, ada, amount) for amount in (100, 1)] == [None, "day_amount_exceeded"]
    assert violations(app) == []


def test_a_limit_of_zero_lets_nothing_pass(app: Connection, ada: int) -> None:
    call(app, "set_limit", ada, "day", 0)
    assert spend(app, ada, 1) == "day_amount_exceeded"
    call(app, "set_limit", ada, "day", None, 0)
    assert spend(app, ada, 1) == "day_count_exceeded"
    assert violations(app) == []


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("transfer", lambda debit, credit, amount: (debit, credit, amount)),
        ("post_transfers", lambda debit, credit, amount: ([debit], [credit], [amount])),
        ("post_legs", lambda debit, credit, amount: ([debit, credit], [-amount, amount])),
    ],
    ids=["transfer", "post_transfers", "post_legs"],
)
@pytest.mark.parametrize("ahead", ["debit", "credit"])
def test_a_window_is_that_of_the_clock_though_an_account_s_entries_are_ahead_of_it(
    app: Connection,
    owner: Connection,
    ada: int,
    *,
    function: str,
    arguments: Callable[..., tuple[Any, ...]],
    ahead: str,
) -> None:
    """The past of the account is moved into the next day, which is what a clock that stepped back makes of it."""
    bob = open_account(app)
    call(app, "set_limit", ada, "day", 100)
    assert spend(app, ada, 60) is None
    used_today = limit_of(app, ada)["window_started_at"]
    owner.execute(
        "update bank.account set last_entry_at = clock_timestamp() + interval '1 day' where account_id = %s",
        [ada if ahead == "debit" else bob],
    )
    assert call(app, function, *arguments(ada, bob, 41))["failure_code"] == "day_amount_exceeded"
    assert call(app, function, *arguments(ada, bob, 40))["failure_code"] is None
    row = limit_of(app, ada)
    assert (row["used_minor"], row["used_count"], row["window_started_at"]) == (100, 2, used_today)
