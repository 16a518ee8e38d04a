"""Eight sessions make random calls of every kind at once; afterwards the model makes the same ones after another.

What the bank answered and what it has in its books is what the model answers and has, at every isolation level.
PGTELLER_CONCURRENT_CALLS is the number of calls a level (3,000 when unset): the long run is by hand. The run prints its
seed, PGTELLER_CONCURRENT_SEED repeats its calls, though not how they meet.
"""

import os
import secrets
import time
from collections import Counter

import pytest

from tests.concurrency.conftest import LEVELS
from tests.concurrency.replay import (
    Books,
    Replay,
    check_that_the_books_are_the_model_s,
    check_that_the_books_are_what_was_answered,
    in_order,
)
from tests.concurrency.traffic import OPENED_MAX, Call, open_world, run
from tests.conftest import Bank, Connection
from tests.helpers import violations

CALLS = int(os.environ.get("PGTELLER_CONCURRENT_CALLS", "3000"))
SHORTEST_THAT_SEES_EVERYTHING = 10_000
LAST_DEADLINE_SECONDS = 10
FUNCTIONS = {  # that change something
    *("open_account", "freeze_account", "unfreeze_account", "close_account", "reopen_account", "set_limit"),
    *("stripe_account", "credit", "debit", "transfer", "post", "sweep", "authorise", "capture", "void", "reverse"),
    *("post_legs", "exchange", "transfer_to_ledger"),
}


def end_what_expires(app: Connection, owner: Connection) -> None:
    """Wait for the deadlines that are near: what is read after it does not change by itself."""
    until = time.monotonic() + LAST_DEADLINE_SECONDS
    near = "select from bank.hold where hold_status = 'open' and expires_at < now() + interval '1 minute' limit 1"
    while owner.execute(near.encode()).fetchall():
        assert time.monotonic() < until
        app.execute("select bank.end_expired_holds()")


def outcomes(calls: list[Call]) -> Counter[tuple[str, str]]:
    """Count calls by function and outcome; items of a batch one by one."""
    seen: Counter[tuple[str, str]] = Counter()
    for call in calls:
        if call.error:
            seen[call.function, call.error] += 1
        elif "failure_code" not in call.columns or call.function == "end_expired_holds":
            seen[call.function, "success"] += 1
        else:
            for row in map(call.row, range(len(call.rows))):
                seen[call.function, "replayed" if row["replayed"] else row["failure_code"] or "success"] += 1
    return seen


@pytest.mark.timeout(0)
@pytest.mark.parametrize("isolation", LEVELS)
def test_calls_at_once_are_answered_as_if_they_were_made_one_after_another(
    bank: Bank, app: Connection, owner: Connection, isolation: str
) -> None:
    seed = int(os.environ.get("PGTELLER_CONCURRENT_SEED") or secrets.randbits(32))
    print(f"\n{isolation}: PGTELLER_CONCURRENT_SEED={seed} PGTELLER_CONCURRENT_CALLS={CALLS}")
    owner.execute("set timezone = 'UTC'")
    world, first = open_world(bank, owner)
    sessions, seconds = run(bank, world, isolation=isolation, seed=seed, calls=CALLS)
    first.close()
    end_what_expires(app, owner)
    retries = sum((session.retries for session in sessions), Counter[str]())
    made = in_order(session.calls for session in sessions)
    seen = outcomes(made)
    print(f"{len(made) / seconds:8.0f} calls a second; made again: {dict(retries)}")
    for (function, outcome), times in sorted(seen.items()):
        print(f"{times:8} {function} {outcome}")

    began = time.monotonic()
    calls = [*first.calls, *made]
    replay = Replay(Books.read(owner, world.ledgers))
    replay.run(calls)
    check_that_the_books_are_what_was_answered(owner, world.ledgers, calls)
    check_that_the_books_are_the_model_s(owner, world.ledgers, replay.model)
    assert violations(app) == []
    print(f"{time.monotonic() - began:8.1f} seconds to replay and compare")
    print(f"{replay.at_a_deadline:8} at the deadline of a hold")

    assert retries["40P01"] == 0, "a single call met a deadlock"
    assert isolation != "read committed" or not retries
    assert len(world.places) <= OPENED_MAX + 20
    if CALLS >= SHORTEST_THAT_SEES_EVERYTHING:
        assert {function for function, outcome in seen if outcome == "success"} >= FUNCTIONS
