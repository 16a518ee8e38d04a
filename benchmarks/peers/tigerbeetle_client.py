"""Single transfers through TigerBeetle's own Python client, from 64 tasks on one client, which batches them itself.

    python -m benchmarks.peers.tigerbeetle_client ADDRESS --mode uniform --seconds 8

Prints a line of JSON as the Lua scripts of workloads/ do. The server is yours to start (its release must be one that
the pinned client may talk to); cluster 0. Every run opens its accounts anew, under ids that no other run has.
"""

import argparse
import asyncio
import json
import random
import time

import tigerbeetle as tb

ACCOUNTS_A_REQUEST = 8_000
"""The server takes 8,189 at most."""
LEDGER = 1
CODE = 1


async def open_accounts(client: tb.ClientAsync, number: int) -> list[int]:
    """Open accounts without limits and return their ids."""
    ids = [tb.id() for _ in range(number)]
    for start in range(0, number, ACCOUNTS_A_REQUEST):
        accounts = [tb.Account(id=id_, ledger=LEDGER, code=CODE) for id_ in ids[start : start + ACCOUNTS_A_REQUEST]]
        results = await client.create_accounts(accounts)
        refused = [result for result in results if result.status != tb.CreateAccountStatus.CREATED]
        if refused:
            raise RuntimeError(f"TigerBeetle refused {len(refused)} accounts: {refused[0]}")
    return ids


async def post_until(
    client: tb.ClientAsync, ids: list[int], chance: random.Random, deadline: float, latencies: list[float]
) -> int:
    """Post transfers one after another until the deadline, note how long each took; return how many were refused."""
    refused = 0
    while (started := time.perf_counter()) < deadline:
        debit, credit = chance.sample(ids, 2) if len(ids) == 2 else _two_of(ids, chance)
        transfer = tb.Transfer(
            id=tb.id(),
            debit_account_id=debit,
            credit_account_id=credit,
            amount=chance.randint(1, 10_000),
            ledger=LEDGER,
            code=CODE,
        )
        [result] = await client.create_transfers([transfer])
        if result.status == tb.CreateTransferStatus.CREATED:
            latencies.append(time.perf_counter() - started)
        else:
            refused += 1
    return refused


def _two_of(ids: list[int], chance: random.Random) -> tuple[int, int]:
    one = chance.randrange(len(ids))
    return ids[one], ids[(one + chance.randrange(1, len(ids))) % len(ids)]


async def run(options: argparse.Namespace) -> dict[str, int]:
    """Post from all tasks at once and return the figures."""
    chance = random.Random(options.seed)  # noqa: S311
    latencies: list[float] = []
    async with tb.ClientAsync(cluster_id=0, replica_addresses=options.address) as client:
        ids = await open_accounts(client, 2 if options.mode == "two" else options.accounts)
        started = time.perf_counter()
        deadline = started + options.seconds
        tasks = (post_until(client, ids, chance, deadline, latencies) for _ in range(options.tasks))
        refused = sum(await asyncio.gather(*tasks))
        elapsed = time.perf_counter() - started
    latencies.sort()
    return {
        "requests": len(latencies) + refused,
        "microseconds": round(elapsed * 1e6),
        "refused": refused,
        "broken": 0,
        "p50_us": round(latencies[len(latencies) // 2] * 1e6),
        "p99_us": round(latencies[len(latencies) * 99 // 100] * 1e6),
        "max_us": round(latencies[-1] * 1e6),
    }


def main() -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--mode", choices=["uniform", "two"], default="uniform")
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
