"""Workloads that wrk runs over HTTP, and their peers."""

import json
import os
import secrets
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import sql_workloads
from benchmarks.load import LoadError, Measure, wrk, wrk_version
from benchmarks.plan import Group, Workload, interleave
from benchmarks.server import PEERS, USED, Bench
from service.http_service import port_is_open

TRANSFER = "transfer.lua"
HTTP = (
    Workload("http_noop_post", "ceiling: no-op POST", TRANSFER, "noop", 64),
    Workload("http_transfer", "POST transfer, uniform", TRANSFER, "pgteller", 64),
    Workload("http_hot", "POST transfer, one hot account", TRANSFER, "pgteller", 64, variables={"MODE": "hot"}),
    Workload("http_two_accounts", "POST transfer, two accounts", TRANSFER, "pgteller", 64, variables={"MODE": "two"}),
    Workload("http_seed", "peer: the seed's design, POST transfer, uniform", TRANSFER, "seed", 64),
    Workload(
        "http_seed_hot", "peer: the seed's design, one hot account", TRANSFER, "seed", 64, variables={"MODE": "hot"},
        full=True,
    ),
    Workload("http_batch", "POST batch of 1,000", "batch.lua", "pgteller", 2, 1_000, {"ITEMS": 1_000}),
    Workload(
        "http_sql_batch", "beside it bank.post_transfers, 1,000 items, 2 connections", "workloads/batch.sql", "bank",
        2, 1_000, {"items": 1_000},
    ),
    Workload("http_noop_get", "ceiling: no-op GET", "balance.lua", "noop", 64),
    Workload("http_balance", "GET balance", "balance.lua", "pgteller", 64),
    Workload("http_mixed", "80 % GET balance, 20 % POST transfer", "mixed.lua", "pgteller", 64),
    Workload("tigerbeetle", "peer: TigerBeetle's Python client, 64 tasks, uniform", None, "tigerbeetle", 64),
    Workload(
        "tigerbeetle_two", "peer: TigerBeetle's Python client, 64 tasks, two accounts", None, "tigerbeetle", 64,
        variables={"MODE": "two"},
    ),
)  # fmt: skip

STATEMENTS = (
    Workload("statement_newest", "GET statement, newest page", "statement.lua", "pgteller", 16),
    Workload("statement_deep", "GET statement, a page deep in history", "statement.lua", "pgteller", 16),
)

TABLES = {"http": HTTP, "statements": STATEMENTS}
HISTORY, HISTORY_FULL = 100_000, 1_000_000
"""Entries of the account whose statement is read."""
CURSORS = 200


def run_group(bench: Bench, name: str) -> Group:
    """Measure the workloads of one of TABLES, all services running side by side, and verify the ledger."""
    group = Group()
    workloads = [workload for workload in TABLES[name] if bench.options.wants(name, workload)]
    if wrk_version() is None:
        group.note(f"{name} was left out: wrk is not installed (on Debian and Ubuntu: apt install wrk)")
        return group
    if any(workload.target == "tigerbeetle" for workload in workloads) and not _listens(bench.options.tigerbeetle):
        group.note("TigerBeetle was left out: --tigerbeetle ADDRESS says where a server of it runs")
        workloads = [workload for workload in workloads if workload.target != "tigerbeetle"]
    targets = {workload.target for workload in workloads}
    with ExitStack() as stack:
        urls = _start(bench, stack, targets)
        cursors = _make_history(bench, urls["pgteller"]) if name == "statements" else ""
        load = _Load(bench, urls, cursors)
        bench.checkpoint()
        interleave(group, workloads, bench.options.round_numbers(name), load.measure)
    if targets & {"bank", "pgteller"}:
        group.violations, group.rejected = bench.verify("bank")
    bench.drop("bank", "seed")
    return group


def _start(bench: Bench, stack: ExitStack, targets: set[str]) -> dict[str, str]:
    """Start the services, to be stopped with the stack; return their addresses."""
    urls: dict[str, str] = {}
    if targets & {"bank", "pgteller"}:
        bench.create("bank", USED)
    if "pgteller" in targets:
        urls["pgteller"] = stack.enter_context(bench.pgteller("bank"))
    if "noop" in targets:
        urls["noop"] = stack.enter_context(bench.noop())
    if "seed" in targets:
        bench.create("seed")
        create = "import sys, seed_app; seed_app.create_database(sys.argv[1], int(sys.argv[2]))"
        arguments = [bench.server.conninfo("seed"), str(bench.accounts.last)]
        environment = os.environ | {"SEED_THREADS": "1"}
        subprocess.run([sys.executable, "-c", create, *arguments], check=True, cwd=PEERS, env=environment)
        with bench.connect("seed") as connection:
            connection.execute("vacuum analyze")
        urls["seed"] = stack.enter_context(bench.seed("seed"))
    return urls


@dataclass(frozen=True)
class _Load:
    """What every run of wrk needs to know."""

    bench: Bench
    urls: dict[str, str]
    cursors: str
    """Of pages deep in the history of one account."""

    def measure(self, workload: Workload, number: int) -> Measure:
        """Run one workload once, in the round of this number."""
        if workload.target == "tigerbeetle":
            return _tigerbeetle(self.bench, workload, number)
        assert workload.script is not None
        if workload.target == "bank":
            return sql_workloads.measure(self.bench, workload, number)
        return wrk(
            self.urls[workload.target],
            workload.script,
            connections=workload.connections,
            seconds=self.bench.options.run_seconds(number),
            items=workload.items,
            variables=self._variables(workload, number),
        )

    def _variables(self, workload: Workload, number: int) -> dict[str, str | int]:
        accounts = self.bench.accounts
        return {
            "KEY": self.bench.key,
            "RUN": secrets.token_hex(6),
            "SEED": self.bench.options.seed + number,
            "FIRST": accounts.first,
            "LAST": accounts.last,
            "HOT": accounts.first if workload.target == "seed" else accounts.hot,  # the seed has no other accounts
            "HISTORY": accounts.history,
            "CURSORS": self.cursors if workload.name == "statement_deep" else "",
            **workload.variables,
        }


def _make_history(bench: Bench, url: str) -> str:
    """Give one account a long history; return cursors of pages in its older half, as the service makes them."""
    entries = HISTORY_FULL if bench.options.full else HISTORY
    entries = min(entries, 10 * bench.options.accounts)
    with bench.connect("bank") as connection:
        for _ in range(0, entries, 10_000):
            connection.execute(
                "select count(*) from bank.post_transfers(array_fill(%(history)s::bigint, array[%(items)s]), "
                "array(select %(first)s + i %% %(accounts)s from generate_series(1, %(items)s) as i), "
                "array_fill(1::bigint, array[%(items)s]))",
                {
                    "history": bench.accounts.history,
                    "first": bench.accounts.first,
                    "accounts": bench.options.accounts,
                    "items": min(entries, 10_000),
                },
            )
    cursors = []
    cursor = None
    pages = entries // 1000
    for _ in range(max(1, min(pages - 1, CURSORS))):
        query = "" if cursor is None else f"&cursor={cursor}"
        request = urllib.request.Request(  # noqa: S310 - our own service
            f"{url}/v1/accounts/{bench.accounts.history}/entries?limit=1000{query}",
            headers={"Authorization": f"Bearer {bench.key}"},
        )
        with urllib.request.urlopen(request) as response:  # noqa: S310
            cursor = json.load(response)["next_cursor"]
        cursors.append(cursor)
    return ",".join(cursors[len(cursors) // 2 :])


def _listens(address: str | None) -> bool:
    """Whether anything listens at an address as TigerBeetle writes them: PORT, HOST, or HOST:PORT."""
    if address is None:
        return False
    host, _, port = address.rpartition(":") if not address.isdigit() else ("", "", address)
    return port_is_open((host or "127.0.0.1", int(port)) if port.isdigit() else (port, 3001))


def _tigerbeetle(bench: Bench, workload: Workload, number: int) -> Measure:
    """Run peers/tigerbeetle_client.py, and read what it prints."""
    address, seconds = bench.options.tigerbeetle or "", bench.options.run_seconds(number)
    command = [sys.executable, str(PEERS / "tigerbeetle_client.py"), address, f"--seconds={seconds}"]
    command += [f"--mode={workload.variables.get('MODE', 'uniform')}", f"--tasks={workload.connections}"]
    command += [f"--accounts={bench.options.accounts}", f"--seed={bench.options.seed + number}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    except subprocess.TimeoutExpired:
        raise LoadError(f"no TigerBeetle answers at {address}") from None
    if done.returncode != 0:
        raise LoadError(f"TigerBeetle's client: {done.stderr}")
    found = json.loads(done.stdout)
    return Measure(
        rate=(found["requests"] - found["refused"]) / found["microseconds"] * 1e6,
        calls=found["requests"] - found["refused"],
        failed=found["refused"],
        seconds=found["microseconds"] / 1e6,
        p50_ms=found["p50_us"] / 1000,
        p99_ms=found["p99_us"] / 1000,
        max_ms=found["max_us"] / 1000,
    )
