"""Measure pgteller against others on one server, in turn, and print medians, ratios and what issue 3 asks of them.

    python -m benchmarks.run [--full] [--only GROUP or WORKLOAD ...] [--seconds 3] [--rounds 3]

A PostgreSQL of its own, with the durable settings that `make run` uses and room for WAL, is started and destroyed. What
is compared runs interleaved, because the machine is noisy: read the ratios, not the numbers. The load generators share
the machine's cores with the server. The ledger is verified after each group. Raw figures go to benchmarks/results/, and
so do the plots and the page that are drawn from them.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import berka, growth, http_workloads, report, slow, sql_workloads
from benchmarks.load import wrk_version
from benchmarks.machine import facts
from benchmarks.plan import Group, Options
from benchmarks.server import Bench, running_bench

RESULTS = Path(__file__).resolve().parent / "results"

GROUPS: dict[str, Callable[[Bench], Group]] = {
    "sql": lambda bench: sql_workloads.run_group(bench, "sql"),
    "batch": lambda bench: sql_workloads.run_group(bench, "batch"),
    "connections": lambda bench: sql_workloads.run_group(bench, "connections"),
    "http": lambda bench: http_workloads.run_group(bench, "http"),
    "statements": lambda bench: http_workloads.run_group(bench, "statements"),
    "berka": berka.run_group,
    "storage": growth.run_storage,
    "growth": growth.run_growth,
    "slow": slow.run_group,
}
FULL_ONLY = {"growth", "slow"}
WORKLOADS = {
    name: workloads
    for tables in (sql_workloads.TABLES, http_workloads.TABLES, berka.TABLES, growth.TABLES, slow.TABLES)
    for name, workloads in tables.items()
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the groups that are wanted; return 1 when a ledger did not verify, or when wrk is missing with --need-wrk."""
    parsed = _parser().parse_args(arguments)
    options = Options(
        seconds=parsed.seconds or (4 if parsed.full else 3),
        rounds=parsed.rounds or (5 if parsed.full else 3),
        full=parsed.full,
        only=tuple(parsed.only),
        accounts=parsed.accounts,
        tpcb_scale=parsed.tpcb_scale,
        seed=parsed.seed,
        warm_up_seconds=parsed.warm_up,
        lock_seconds=parsed.lock_seconds,
        pgledger=parsed.pgledger,
        tigerbeetle=parsed.tigerbeetle,
    )
    if parsed.growth:
        options = replace(options, growth=tuple(parsed.growth))
    if parsed.need_wrk and wrk_version() is None:
        print("wrk is not installed: apt install wrk", file=sys.stderr)
        return 1
    path = parsed.results / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    groups: dict[str, Group] = {}
    try:
        _run(options, path, groups)
    except KeyboardInterrupt:
        print(f"Stopped; {path} has: {', '.join(groups)}" if groups else "Stopped", file=sys.stderr)
        return 130
    print(report.text(report.read(path)))
    print(f"\nRaw figures: {path}")
    report.draw(parsed.results)
    return 1 if any(group.violations for group in groups.values()) else 0


def _run(options: Options, path: Path, groups: dict[str, Group]) -> None:
    """Run the groups that are wanted one after another, and write down what is known after each."""
    with running_bench(options) as bench:
        about = facts(bench)
        for name, run in GROUPS.items():
            if _is_wanted(name, options):
                print(name, flush=True)
                started = time.monotonic()
                groups[name] = run(bench)
                report.write(path, about, groups)
                print(f"  {time.monotonic() - started:.0f} seconds", flush=True)


def _is_wanted(group: str, options: Options) -> bool:
    """Whether a group is to be run: named itself or by one of its workloads, or nothing is named."""
    if options.only:
        return group in options.only or any(workload.name in options.only for workload in WORKLOADS[group])
    return options.full or group not in FULL_ONLY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--full", action="store_true", help="every workload, longer runs, growth to 20 million transfers"
    )
    names = [*GROUPS, *(workload.name for workloads in WORKLOADS.values() for workload in workloads)]
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", choices=names, help="groups or workloads: " + ", ".join(names)
    )
    parser.add_argument("--seconds", type=int, help="of each run of a workload: 3, with --full 4")
    parser.add_argument("--warm-up", type=int, default=1, help="seconds of each workload that do not count")
    parser.add_argument("--rounds", type=int, help="3, with --full 5")
    parser.add_argument("--lock-seconds", type=int, default=20, help="how long rows are kept locked in group slow")
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--tpcb-scale", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers")
    parser.add_argument("--growth", type=int, nargs="+", metavar="TRANSFERS", help="where growth is measured")
    parser.add_argument("--pgledger", type=Path, metavar="FILE", help="pgledger.sql of a checkout of pgr0ss/pgledger")
    parser.add_argument("--tigerbeetle", metavar="ADDRESS", help="of a TigerBeetle server, such as 3000")
    parser.add_argument("--need-wrk", action="store_true", help="fail when wrk is not installed, instead of a note")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the raw figures, the page and the plots"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
