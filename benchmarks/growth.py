"""What a transfer costs on disk and in WAL, and what millions of them do to the speed of the next one."""

from dataclasses import dataclass
from functools import partial

from benchmarks.load import SCRIPTS, run_pgbench
from benchmarks.plan import Group, Workload, interleave
from benchmarks.server import BATCHES, LOADED, Bench, one
from benchmarks.sql_workloads import measure

TABLES: dict[str, tuple[Workload, ...]] = {"storage": (), "growth": ()}
"""Their workloads depend on the options."""
STORED, STORED_FULL = 100_000, 1_000_000
KEYS = {"unkeyed": ("workloads/transfer.sql", "workloads/batch_unkeyed.sql"),
        "keyed": ("workloads/transfer_keyed.sql", "workloads/batch.sql")}  # fmt: skip


@dataclass(frozen=True)
class Usage:
    """Counters of the server and of one database, at one moment."""

    heap_bytes: int
    index_bytes: int
    wal_bytes: int
    account_updates: int
    account_updates_hot: int


def usage(bench: Bench, database: str) -> Usage:
    """Read them. Heap and indexes are those of every table of schema bank, whatever tables there are."""
    with bench.connect(database) as connection:
        row = connection.execute(
            """
            select
                (
                    select sum(pg_table_size(oid)) from pg_class
                    where relnamespace = 'bank'::regnamespace and relkind = 'r'
                ),
                (
                    select sum(pg_indexes_size(oid)) from pg_class
                    where relnamespace = 'bank'::regnamespace and relkind = 'r'
                ),
                pg_current_wal_lsn() - '0/0',
                coalesce(sum(n_tup_upd), 0),
                coalesce(sum(n_tup_hot_upd), 0)
            from pg_stat_user_tables
            where schemaname = 'bank' and relname = 'account'
            """
        ).fetchone()
    assert row is not None
    return Usage(*(int(number) for number in row))


def run_storage(bench: Bench) -> Group:
    """Post transfers without and with keys, and divide what they took by their number."""
    group = Group()
    transfers = STORED_FULL if bench.options.full else STORED
    items = 1_000
    calls = max(1, min(transfers, 10 * bench.options.accounts) // items // 2)
    for name, (single, batch) in KEYS.items():
        bench.create("bank", LOADED)
        before = usage(bench, "bank")
        post_batches(bench, "bank", batch, items, calls)
        after = usage(bench, "bank")
        posted = 2 * calls * items
        heap, index = after.heap_bytes - before.heap_bytes, after.index_bytes - before.index_bytes
        group.figures[f"{name}_heap_bytes"] = heap / posted
        group.figures[f"{name}_index_bytes"] = index / posted
        group.figures[f"{name}_bytes"] = (heap + index) / posted
        group.figures[f"{name}_batch_wal_bytes"] = (after.wal_bytes - before.wal_bytes) / posted
        workload = Workload(f"storage_{name}", f"bank.transfer for WAL, {name}", single, "bank", 16)
        measured = measure(bench, workload, 1)
        at_end = usage(bench, "bank")
        updates = at_end.account_updates - after.account_updates
        group.figures[f"{name}_single_wal_bytes"] = (at_end.wal_bytes - after.wal_bytes) / measured.calls
        group.figures[f"{name}_single_hot_percent"] = (
            100 * (at_end.account_updates_hot - after.account_updates_hot) / max(1, updates)
        )
        violations, rejected = bench.verify("bank")
        group.violations = (group.violations or 0) + violations
        group.rejected += rejected
    for figure, value in group.figures.items():
        print(f"  {figure:32} {value:10,.1f}", flush=True)
    bench.drop("bank")
    return group


def run_growth(bench: Bench) -> Group:
    """Measure transfers at each size of the history, in turn with the same on a copy of the smallest one."""
    options = bench.options
    group = Group()
    bench.create("growth", LOADED)
    empty = usage(bench, "growth")
    posted = 0
    for milestone in options.growth:
        _grow(bench, milestone - posted)
        with bench.connect("growth") as connection:
            connection.execute("vacuum analyze")
            posted = one(connection.execute("select count(*) from bank.transaction"))
        if milestone == options.growth[0]:
            bench.create("growth_first", "growth")
        bench.create("base", "growth_first")
        bench.checkpoint()
        size = usage(bench, "growth")
        label = short(milestone)
        group.figures[f"{label}_transfers"] = posted
        group.figures[f"{label}_heap_bytes"] = (size.heap_bytes - empty.heap_bytes) / posted
        group.figures[f"{label}_index_bytes"] = (size.index_bytes - empty.index_bytes) / posted
        group.figures[f"{label}_bytes"] = group.figures[f"{label}_heap_bytes"] + group.figures[f"{label}_index_bytes"]
        print(f"  {posted:,} transfers, {group.figures[f'{label}_bytes']:,.0f} bytes each", flush=True)
        workloads = _workloads(label, short(options.growth[0]))
        interleave(group, workloads, options.round_numbers("growth"), partial(measure, bench))
    group.violations, group.rejected = bench.verify("growth")
    bench.drop("growth", "growth_first", "base")
    return group


def post_batches(bench: Bench, database: str, script: str, items: int, calls: int) -> None:
    """Post prepared batches, `calls` times over each of two connections."""
    arguments = ["--no-vacuum", "--protocol=prepared", "--client=2", "--jobs=2", f"--transactions={calls}"]
    arguments += [f"--define=items={items}", f"--define=batches={BATCHES}", f"--random-seed={bench.options.seed}"]
    arguments += [f"--file={SCRIPTS.parent / script}"]
    run_pgbench(bench.server, database, arguments)


def _grow(bench: Bench, missing: int) -> None:
    """Post batches of about so many transfers in all."""
    items = 10_000 if missing >= 100_000 else 100
    calls = max(0, missing) // items // 2
    if calls:
        post_batches(bench, "growth", "workloads/grow.sql", items, calls)


def _workloads(label: str, first: str) -> tuple[Workload, ...]:
    return tuple(
        Workload(f"growth_{label}{keyed}{base}", f"bank.transfer{title}, {when}", script, target, 16)
        for keyed, title, script in (
            ("", "", "workloads/transfer.sql"),
            ("_keyed", " with random UUID", "workloads/transfer_keyed.sql"),
        )
        for base, target, when in (
            ("_base", "base", f"beside it a copy at {first}"),
            ("", "growth", f"at {label} transfers"),
        )
    )


def short(number: int) -> str:
    """Return 20m for 20,000,000 and 100k for 100,000."""
    for unit, letter in ((1_000_000, "m"), (1_000, "k")):
        if number % unit == 0:
            return f"{number // unit}{letter}"
    return str(number)
