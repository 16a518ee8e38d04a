"""Many at once: whatever the interleaving, no call fails and no cent is lost.

At READ COMMITTED, where nobody is told to make a call again; test_concurrent_model.py does far more, at every level.
"""

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from tests.conftest import Bank, Connection
from tests.helpers import Row, violations

THREADS = 16
CALLS = 60
KEYS = 40


def _keyed(number: int, accounts: list[int]) -> tuple[str, list[Any]]:
    """A request that is made from its key alone, so that everybody who draws the key sends the same one."""
    draw = random.Random(number)  # noqa: S311 - a test's seed
    debit_account_id, credit_account_id = draw.sample(accounts, 2)
    return "select * from bank.transfer(%s, %s, %s, %s)", [
        debit_account_id,
        credit_account_id,
        draw.randint(1, 9000),
        f"key-{number}",
    ]


def _request(draw: random.Random, accounts: list[int]) -> tuple[str, list[Any]]:
    debit_account_id, credit_account_id = draw.sample(accounts, 2)
    kind = draw.choice(["transfer", "transfer", "debit", "keyed"])
    if kind == "transfer":
        return "select * from bank.transfer(%s, %s, %s)", [debit_account_id, credit_account_id, draw.randint(1, 6000)]
    if kind == "debit":
        return "select * from bank.debit(%s, %s)", [debit_account_id, draw.randint(1, 60)]
    return _keyed(draw.randrange(KEYS), accounts)


def test_racing_transfers_debits_and_retries_surface_no_error_and_lose_no_cent(
    bank: Bank, app: Connection, accounts: list[int]
) -> None:
    barrier = Barrier(THREADS)

    def client(seed: int) -> list[Row]:
        draw = random.Random(seed)  # noqa: S311 - a test's seed
        with bank.connect() as connection:
            connection.execute("set statement_timeout = '20s'")
            barrier.wait(20)
            rows: list[Row] = []
            for _ in range(CALLS):
                rows += connection.execute(*_request(draw, accounts)).fetchall()
            return rows

    with ThreadPoolExecutor(THREADS) as executor:
        outcomes = [row for rows in executor.map(client, range(THREADS)) for row in rows]

    assert len(outcomes) == THREADS * CALLS
    assert {row["failure_code"] for row in outcomes} == {None, "insufficient_funds"}

    by_key: defaultdict[str, list[Row]] = defaultdict(list)
    for row in outcomes:
        if row["idempotency_key"] is None:
            assert not row["replayed"]
        else:
            by_key[row["idempotency_key"]].append(row)
    assert len(by_key) == KEYS
    for rows in by_key.values():
        assert [row["replayed"] for row in rows].count(False) == 1
        assert len({row["transaction_id"] for row in rows}) == 1
        assert len({row["failure_code"] for row in rows}) == 1

    recorded = app.execute("select count(*) as n from bank.posting where transaction_type <> 'credit'").fetchone()
    assert recorded == {"n": sum(not row["replayed"] for row in outcomes)}

    left = sum(
        row["amount_minor"]
        for row in outcomes
        if (row["transaction_type"], row["transaction_status"]) == ("debit", "success")
    )
    balances = app.execute("select account_id, balance_minor from bank.account_balance").fetchall()
    assert sum(row["balance_minor"] for row in balances) == 0
    assert sum(row["balance_minor"] for row in balances if row["account_id"] in accounts) == 40000 - left
    assert min(row["balance_minor"] for row in balances if row["account_id"] in accounts) >= 0
    assert violations(app) == []
