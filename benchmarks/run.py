"""Measure pgteller against others on one server, in turn, and print medians and ratios.

    python -m benchmarks.run [--seconds 8] [--rounds 3] [--clients 16]

A PostgreSQL of its own, with the durable settings that `make run` uses and room for WAL, is started and destroyed.
What is compared runs interleaved, because the machine is noisy: read the ratios, not the numbers. The load generator
(pgbench) shares the machine's cores with the server. The ledger is verified after the run. Raw figures go to
benchmarks/results/.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from service.embedded import EmbeddedPostgres
from service.migrate import migrate

HERE = Path(__file__).resolve().parent
ACCOUNTS = 100_000
TPCB_SCALE = 50
SERVER_SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
SHOWN_SETTINGS = (
    "server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size",
)  # fmt: skip


def main() -> int:
    """Run every workload `rounds` times, interleaved; return 1 when the ledger does not verify."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pgteller-bench-") as directory:
        server = EmbeddedPostgres(Path(directory), settings=SERVER_SETTINGS)
        server.start()
        try:
            return run(server, options)
        finally:
            server.destroy()


def run(server: EmbeddedPostgres, options: argparse.Namespace) -> int:
    """Prepare both databases, measure in turn, report."""
    prepare(server)
    workloads = {
        "pgbench TPC-B-like": ("tpcb", []),
        "bank.transfer, uniform": ("bank", ["-f", str(HERE / "workloads" / "transfer.sql")]),
        "bank.credit, one settlement account": ("bank", ["-f", str(HERE / "workloads" / "credit.sql")]),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in workloads}
    for number in range(1, options.rounds + 1):
        for name, (dbname, arguments) in workloads.items():
            result = pgbench(server, dbname, arguments, options)
            runs[name].append(result)
            print(f"round {number}  {name:38} {result['tps']:8,.0f}/s", flush=True)
    violations = verify(server)
    report(server, options, runs, violations)
    return 1 if violations else 0


def prepare(server: EmbeddedPostgres) -> None:
    """Make a bank with ACCOUNTS accounts that may overdraw, and pgbench's own tables."""
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute("create database bank")
        connection.execute("create database tpcb")
    migrate(server.conninfo("bank"))
    with psycopg.connect(server.conninfo("bank"), autocommit=True) as connection:
        connection.execute("select bank.open_account('Load', 'EUR', 9007199254740991) from generate_series(1, %s)",
                           [ACCOUNTS])  # fmt: skip
        connection.execute("vacuum analyze")
    command(server, "tpcb", ["-q", "-i", "-s", str(TPCB_SCALE)])
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute("checkpoint")


def pgbench(server: EmbeddedPostgres, dbname: str, arguments: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Run pgbench once and read its summary; a failed transaction is counted apart."""
    clients = str(options.clients)
    common = ["-n", "-M", "prepared", "-c", clients, "-j", "2", "-T", str(options.seconds), "-P", "60"]
    output = command(server, dbname, [*common, *arguments])
    found = {
        "tps": r"tps = ([\d.]+)",
        "latency_ms_average": r"latency average = ([\d.]+)",
        "latency_ms_deviation": r"latency stddev = ([\d.]+)",
        "failed": r"number of failed transactions: (\d+)",
    }
    return {name: float(match[1]) for name, pattern in found.items() if (match := re.search(pattern, output))}


def command(server: EmbeddedPostgres, dbname: str, arguments: list[str]) -> str:
    """Run the pgbench that belongs to the server."""
    done = subprocess.run(
        [str(server.binaries / "pgbench"), *arguments, server.conninfo(dbname)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(done.stderr)
    return done.stdout


def verify(server: EmbeddedPostgres) -> int:
    """Return how many violations the ledger has after the run."""
    with psycopg.connect(server.conninfo("bank"), autocommit=True) as connection:
        row = connection.execute("select count(*) from bank.verify(null)").fetchone()
    assert row is not None
    return int(row[0])


def report(
    server: EmbeddedPostgres, options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]], violations: int
) -> None:
    """Print medians with their spread and the ratio to the first workload, and keep the raw figures."""
    base = statistics.median(run["tps"] for run in next(iter(runs.values())))
    print(f"\n{'':38}   median     min     max   ratio  failed")
    for name, results in runs.items():
        rates = [result["tps"] for result in results]
        median = statistics.median(rates)
        failed = sum(result.get("failed", 0) for result in results)
        print(f"{name:38} {median:8,.0f}{min(rates):8,.0f}{max(rates):8,.0f}{median / base:8.2f}{failed:8,.0f}")
    print(f"verify(): {violations} violations")
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        settings = {name: connection.execute(f"show {name}").fetchone()[0] for name in SHOWN_SETTINGS}  # type: ignore[index]
    raw = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else ""),
        "cpu": cpu(),
        "settings": settings,
        "options": vars(options),
        "violations": violations,
        "runs": runs,
    }
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(raw, indent=1) + "\n")
    print(f"{raw['commit']} · {raw['cpu']} · {settings} · {path.name}")


def git(*arguments: str) -> str:
    """Return what git prints."""
    return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


def cpu() -> str:
    """Return the processor's name and the number of cores."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.processor()]
    return f"{len(names)} x {names[0]}"


if __name__ == "__main__":
    sys.exit(main())
