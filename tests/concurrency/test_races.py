"""Races of two calls, each run twice: the second waits for the first, or its snapshot is from before the first.

A snapshot from before meets no lock. Under REPEATABLE READ and SERIALIZABLE it does not see what the first one did
either: the call must notice by a row that was changed and raise 40001, and be right when it is made again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pytest

from tests.concurrency.conftest import FIXED_SNAPSHOT_LEVELS, Sessions
from tests.conftest import Connection
from tests.helpers import Row, authorise, balances_of, call, open_account, violations

STRIPES = 64


@dataclass(frozen=True)
class Race:
    """Two calls, the code of the second or what it says, and what named accounts have after both: posted and held."""

    first: str
    second: str
    code: str | None
    after: dict[str, tuple[int, int]]


RACES = {
    # No row of theirs is the same but the original: each has a stripe of its own.
    "reversals of a transfer": Race(
        "reverse({paid}, 300)", "reverse({paid}, 300)", "reversal_exceeds_original", {"one": (-100, 0), "two": (100, 0)}
    ),
    "reversals of what is left": Race("reverse({paid}, 300)", "reverse({paid})", None, {"one": (0, 0), "two": (0, 0)}),
    "whole reversals": Race(
        "reverse({paid})", "reverse({paid})", "reversal_exceeds_original", {"one": (0, 0), "two": (0, 0)}
    ),
    "forced reversals": Race(
        "reverse({paid}, force => true)",
        "reverse({paid}, force => true)",
        "reversal_exceeds_original",
        {"one": (0, 0), "two": (0, 0)},
    ),
    "reversals of an exchange": Race(
        "reverse({exchanged})",
        "reverse({exchanged})",
        "reversal_exceeds_original",
        {"hot": (0, 0), "yen": (0, 0)},
    ),
    "reversals of legs": Race(
        "reverse({split})",
        "reverse({split})",
        "reversal_exceeds_original",
        {"one": (-400, 0), "two": (400, 0)},
    ),
    "captures": Race("capture({hold})", "capture({hold})", "hold_not_open", {"eve": (6000, 0)}),
    "partial captures": Race(
        "capture({hold}, 2500)", "capture({hold}, 2500)", "capture_exceeds_hold", {"eve": (7500, 1500)}
    ),
    "captures of what is left": Race("capture({hold}, 2500)", "capture({hold})", None, {"eve": (6000, 0)}),
    "a capture, then a void": Race("capture({hold}, 2500, true)", "void({hold})", "hold_not_open", {"eve": (7500, 0)}),
    "a part captured, then a void": Race("capture({hold}, 2500)", "void({hold})", None, {"eve": (7500, 0)}),
    "a void, then a capture": Race("void({hold})", "capture({hold})", "hold_not_open", {"eve": (10_000, 0)}),
    "voids": Race("void({hold})", "void({hold})", "hold_not_open", {"eve": (10_000, 0)}),
    "holds of the same money": Race(
        "authorise({ada}, 7000)", "authorise({ada}, 3001)", "insufficient_funds", {"ada": (10_000, 7000)}
    ),
    "a hold, then a sweep": Race("authorise({ada}, 7000)", "sweep({ada}, {bob})", None, {"ada": (7000, 7000)}),
    "a sweep, then a hold": Race(
        "sweep({ada}, {bob}, 7000)", "authorise({ada}, 3001)", "insufficient_funds", {"ada": (3000, 0)}
    ),
    "a credit, then a sweep": Race(
        "credit({ada}, 1)", "sweep({ada}, {bob})", None, {"ada": (0, 0), "bob": (20_001, 0)}
    ),
    "a sweep, then a credit": Race(
        "sweep({ada}, {bob})", "credit({ada}, 1)", None, {"ada": (1, 0), "bob": (20_000, 0)}
    ),
    "sweeps": Race("sweep({ada}, {bob})", "sweep({ada}, {bob})", "nothing_to_sweep", {"bob": (20_000, 0)}),
    "a credit of a stripe, then a close": Race(
        "transfer({ada}, {hot}, 5)", "close_account({hot})", "account_not_empty", {"hot": (-95, 0)}
    ),
    "the last of a stripe, then a close": Race("credit({hot}, 100)", "close_account({hot})", "closed", {"hot": (0, 0)}),
    "a close, then a credit of a stripe": Race(
        "close_account({two})", "transfer({ada}, {two}, 5)", "account_closed", {"ada": (10_000, 0), "two": (0, 0)}
    ),
    "a freeze, then a credit of a stripe": Race(
        "freeze_account({two})", "transfer({ada}, {two}, 5)", "account_frozen", {"ada": (10_000, 0), "two": (400, 0)}
    ),
    "a hold, then stripes": Race(
        "authorise({wide}, 5)", "stripe_account({wide}, 4)", "account_limited", {"wide": (0, 5)}
    ),
    "stripes, then a hold": Race(
        "stripe_account({wide}, 4)", "authorise({wide}, 5)", "account_striped", {"wide": (0, 0)}
    ),
    "stripes, then a limit": Race(
        "stripe_account({wide}, 4)", "set_limit({wide}, 'day', 5)", "account_striped", {"wide": (0, 0)}
    ),
    "a limit, then stripes": Race(
        "set_limit({wide}, 'day', 5)", "stripe_account({wide}, 4)", "account_limited", {"wide": (0, 0)}
    ),
    "stripes, then a transfer": Race("stripe_account({wide}, 4)", "transfer({ada}, {wide}, 5)", None, {"wide": (5, 0)}),
    "a limit, then a debit": Race(
        "set_limit({ada}, 'transaction', 4)",
        "transfer({ada}, {bob}, 5)",
        "transaction_limit_exceeded",
        {"ada": (10_000, 0)},
    ),
    "a limit, then a batch": Race(
        "set_limit({ada}, 'day', 4)",
        "post_transfers(array[{ada}], array[{bob}], array[5])",
        "day_amount_exceeded",
        {"ada": (10_000, 0)},
    ),
    "a debit, then a limit": Race(
        "transfer({ada}, {bob}, 5)",
        "set_limit({ada}, 'minimum_balance', 10000)",
        "limit_passed_already",
        {"ada": (9995, 0)},
    ),
    "debits of a window": Race(
        "transfer({bob}, {ada}, 5)", "transfer({bob}, {ada}, 5)", "day_amount_exceeded", {"bob": (9995, 0)}
    ),
    "holds of a window": Race(
        "authorise({bob}, 5)", "authorise({bob}, 5)", "day_amount_exceeded", {"bob": (10_000, 5)}
    ),
    "a debit of a window, then a batch": Race(
        "transfer({bob}, {ada}, 5)",
        "post_transfers(array[{bob}], array[{ada}], array[5])",
        "day_amount_exceeded",
        {"bob": (9995, 0)},
    ),
    "a batch in a window, then a debit": Race(
        "post_transfers(array[{bob}], array[{ada}], array[5])",
        "transfer({bob}, {ada}, 5)",
        "day_amount_exceeded",
        {"bob": (9995, 0)},
    ),
    "a batch in a window, then legs": Race(
        "post_transfers(array[{bob}], array[{ada}], array[5])",
        "post_legs(array[{bob}, {ada}], array[-5, 5])",
        "day_amount_exceeded",
        {"bob": (9995, 0)},
    ),
    "one key": Race(
        "transfer({ada}, {bob}, 5, 'key')", "transfer({ada}, {bob}, 5, 'key')", "replayed", {"ada": (9995, 0)}
    ),
    "one key, on stripes": Race(
        "transfer({one}, {two}, 5, 'key')", "transfer({one}, {two}, 5, 'key')", "replayed", {"one": (-405, 0)}
    ),
    "one key of a sweep": Race(
        "sweep({ada}, {bob}, null, 'key')", "sweep({ada}, {bob}, null, 'key')", "replayed", {"ada": (0, 0)}
    ),
    "one key of a capture": Race(
        "capture({hold}, null, false, 'key')", "capture({hold}, null, false, 'key')", "replayed", {"eve": (6000, 0)}
    ),
    "one key of a reversal": Race(
        "reverse({paid}, idempotency_key => 'key')",
        "reverse({paid}, idempotency_key => 'key')",
        "replayed",
        {"one": (0, 0), "two": (0, 0)},
    ),
    "one key of two questions": Race(
        "transfer({ada}, {bob}, 5, 'key')",
        "sweep({ada}, {bob}, 5, 'key')",
        "idempotency_key_reused",
        {"ada": (9995, 0)},
    ),
    "one key in a batch": Race(
        "transfer({ada}, {bob}, 5, 'key')",
        "post_transfers(array[{ada}], array[{bob}], array[5], array['key'])",
        "replayed",
        {"ada": (9995, 0)},
    ),
    "freezes": Race("freeze_account({ada})", "unfreeze_account({ada})", "open", {"ada": (10_000, 0)}),
}


@pytest.fixture
def scene(app: Connection, accounts: list[int]) -> dict[str, int]:
    """Accounts and transactions by name: ada and bob have 100.00, bob a limit a day, 40.00 of eve's are held."""
    made = dict(zip(("ada", "bob", "eve"), accounts, strict=False))
    call(app, "set_limit", made["bob"], "day", 8)
    made["hold"] = authorise(app, made["eve"], 4000, made["ada"])
    for name in ("wide", "hot", "one", "two"):
        made[name] = open_account(app, overdraft_limit_minor=None)
    made["yen"] = open_account(app, currency="JPY", overdraft_limit_minor=None)
    for name in ("hot", "one", "two", "yen"):
        call(app, "stripe_account", made[name], STRIPES)
    made["paid"] = call(app, "transfer", made["one"], made["two"], 400)["transaction_id"]
    return made


def prepared(app: Connection, race: Race, scene: dict[str, int]) -> dict[str, int]:
    """Add what only some races need, so that the others' figures stay round."""
    if "{split}" in race.first:
        legs = [scene["one"], scene["two"], scene["hot"]], [-100, 60, 40]
        scene["split"] = call(app, "post_legs", *legs)["transaction_id"]
    if "{exchanged}" in race.first:
        scene["exchanged"] = call(app, "exchange", scene["hot"], scene["yen"], 500, 100)["transaction_id"]
    if "{hot}" in race.second and "close" in race.second:
        call(app, "debit", scene["hot"], 100)
    if "close_account({two})" in race.first:
        call(app, "reverse", scene["paid"])
    return scene


def statement(template: str, scene: dict[str, int]) -> str:
    return f"select * from bank.{template.format(**scene)}"


def code_of(ask: Callable[[], list[Row]]) -> str | None:
    """Return the code that the call raised or recorded, or what else it says; retries are the caller's."""
    try:
        (row,) = ask()
    except psycopg.errors.SerializationFailure:
        raise
    except psycopg.Error as error:
        return error.diag.message_primary
    if row.get("replayed"):
        return "replayed"
    code: str | None = row["failure_code"] if "failure_code" in row else row["account_status"]
    return code


def apart(sessions: Sessions, other: Connection) -> Connection:
    """Return a session in a transaction whose choice of a stripe is not the other's."""
    while True:
        session = sessions.idle(autocommit=False)
        if (session.info.backend_pid - other.info.backend_pid) % STRIPES:
            return session


def check(app: Connection, race: Race, scene: dict[str, int]) -> None:
    found = {name: balances_of(app, scene[name])[:2] for name in race.after}
    assert found == race.after
    assert violations(app) == []


@pytest.mark.parametrize("name", RACES)
def test_who_waited_for_the_first_is_right_or_made_again(
    sessions: Sessions, app: Connection, scene: dict[str, int], name: str
) -> None:
    race, named = RACES[name], prepared(app, RACES[name], scene)
    waiting = sessions.idle()
    first = apart(sessions, waiting)
    first.execute(statement(race.first, named).encode())
    second = sessions.start(statement(race.second, named), on=waiting)
    assert second.is_blocked_by(first)
    first.commit()
    assert code_of(second.rows) == race.code
    check(app, race, named)


@pytest.mark.parametrize("isolation", FIXED_SNAPSHOT_LEVELS)  # at READ COMMITTED each statement has a new one
@pytest.mark.parametrize("name", RACES)
def test_whose_snapshot_is_from_before_the_first_is_right_or_told_to_begin_again(
    sessions: Sessions, app: Connection, scene: dict[str, int], name: str
) -> None:
    race, named = RACES[name], prepared(app, RACES[name], scene)
    second = apart(sessions, app)
    second.execute("select 1 from bank.error")
    app.execute(statement(race.first, named).encode())

    def ask() -> list[Row]:
        return second.execute(statement(race.second, named).encode()).fetchall()

    try:
        code = code_of(ask)
    except psycopg.errors.SerializationFailure:
        second.rollback()
        code = code_of(ask)
    if second.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
        second.rollback()
    second.commit()
    assert code == race.code
    check(app, race, named)
