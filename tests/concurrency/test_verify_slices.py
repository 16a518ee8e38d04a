"""Slices of a bank that works: eight sessions make random calls of every kind meanwhile, and no slice alarms."""

import random
import secrets
from concurrent.futures import ThreadPoolExecutor

from tests.concurrency.traffic import open_world, run
from tests.conftest import Bank, Connection
from tests.helpers import call, violations

CALLS = 3000
SLICES_MIN = 10


def test_no_slice_of_a_busy_bank_raises_a_false_alarm(bank: Bank, app: Connection, owner: Connection) -> None:
    seed = secrets.randbits(32)
    print(f"\nseed {seed}")
    draw = random.Random(seed)  # noqa: S311 - a test's seed
    world, first = open_world(bank, owner)
    slices = 0
    with ThreadPoolExecutor(1) as executor:
        traffic = executor.submit(run, bank, world, isolation="read committed", seed=seed, calls=CALLS)
        while not traffic.done():
            place = None
            rows_max = draw.choice([20, 100, 1000])
            while True:
                checked = call(app, "verify_slice", place, rows_max, None)
                assert checked["violations"] == []
                slices += 1
                place = checked["next_place"]
                if place is None or traffic.done():
                    break
        traffic.result()
    first.close()
    assert slices >= SLICES_MIN
    assert violations(app) == []
