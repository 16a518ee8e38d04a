"""Workloads that pgbench runs on the functions themselves, and their peers."""

from functools import partial

from benchmarks.load import Measure, pgbench
from benchmarks.plan import Group, Options, Workload, interleave
from benchmarks.server import BATCH_ITEMS, USED, Bench, one

CONNECTIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONNECTIONS_SHORT = (1, 16, 64, 256)
BATCH_ITEMS_SHORT = (1_000, 10_000)

SQL = (
    Workload("tpcb", "peer: pgbench TPC-B-like", None, "tpcb", 16),
    Workload("ceiling", "ceiling: the rows of a transfer without logic", "peers/ceiling.sql", "ceiling", 16),
    Workload("transfer", "bank.transfer, uniform", "workloads/transfer.sql", "bank", 16),
    Workload(
        "transfer_keyed",
        "bank.transfer, uniform, random UUID as key",
        "workloads/transfer_keyed.sql",
        "bank",
        16,
        full=True,
    ),
    Workload("zipfian", "bank.transfer, zipfian 1.1", "workloads/zipfian.sql", "bank", 16),
    Workload("hot", "bank.transfer, one hot account", "workloads/hot.sql", "bank", 16),
    Workload("hot_striped", "bank.transfer, one hot account, 16 stripes", "workloads/hot.sql", "bank", 16),
    Workload("two_accounts", "bank.transfer, two accounts", "workloads/two_accounts.sql", "bank", 16),
    Workload("credit", "bank.credit (one settlement account)", "workloads/credit.sql", "bank", 16),
    Workload("balance", "bank.balance", "workloads/balance.sql", "bank", 16, full=True),
    Workload("pgledger", "peer: pgledger_create_transfer, uniform", "peers/pgledger.sql", "pgledger", 16),
)


def _batch(prefix: str, title: str, script: str, *, target: str, items: int, connections: int) -> Workload:
    plural = "s" if connections > 1 else ""
    return Workload(
        f"{prefix}_{items}_c{connections}",
        f"{title}, {items:,} items, {connections} connection{plural}",
        script, target, connections, items, {"items": items},
        full=items not in BATCH_ITEMS_SHORT or connections == 1,
    )  # fmt: skip


BATCH = tuple(
    _batch(prefix, title, script, target=target, items=items, connections=connections)
    for items in BATCH_ITEMS
    for connections in (1, 2)
    for prefix, title, script, target in (
        ("ceiling_batch", "ceiling: rows of a batch without logic", "peers/ceiling_batch.sql", "ceiling"),
        ("batch", "bank.post_transfers", "workloads/batch.sql", "bank"),
    )
)

SCALING = tuple(
    Workload(
        f"transfer_c{connections}",
        f"bank.transfer, uniform, {connections} connection{'s' if connections > 1 else ''}",
        "workloads/transfer.sql", "bank", connections, full=connections not in CONNECTIONS_SHORT,
    )
    for connections in CONNECTIONS
)  # fmt: skip

TABLES = {"sql": SQL, "batch": BATCH, "connections": SCALING}


def run_group(bench: Bench, name: str) -> Group:
    """Measure the workloads of one of TABLES on databases of their own, and verify the ledger."""
    options = bench.options
    group = Group()
    workloads = [workload for workload in TABLES[name] if options.wants(name, workload)]
    workloads = _prepare(bench, group, workloads)
    databases = {workload.target for workload in workloads}
    bench.checkpoint()
    interleave(group, workloads, options.round_numbers(name), partial(measure, bench))
    if "bank" in databases:
        group.violations, group.rejected = bench.verify("bank")
    bench.drop(*databases)
    return group


def measure(bench: Bench, workload: Workload, number: int) -> Measure:
    """Run one workload once, in the round of this number."""
    variables = bench.accounts.variables | {"accounts": bench.options.accounts}
    variables |= {name: int(value) for name, value in workload.variables.items()}
    if workload.name == "hot_striped":
        variables["hot"] = bench.accounts.striped or 0
    return pgbench(
        bench.server,
        workload.target,
        workload.script,
        connections=workload.connections,
        seconds=bench.options.run_seconds(number),
        seed=bench.options.seed + number,
        items=workload.items,
        variables={} if workload.script is None else variables,
    )


def _prepare(bench: Bench, group: Group, workloads: list[Workload]) -> list[Workload]:
    """Make the databases that these need; return those of the workloads that can be run."""
    options = bench.options
    without = {}
    if options.pgledger is None:
        without["pgledger"] = "pgledger was left out: --pgledger FILE says where its pgledger.sql is"
    if bench.accounts.striped is None:
        without["hot_striped"] = "one hot account, 16 stripes was left out: this bank has no bank.stripe_account"
    for workload in workloads:
        if workload.name in without:
            group.note(without[workload.name])
    kept = [workload for workload in workloads if workload.name not in without]
    for target in dict.fromkeys(workload.target for workload in kept):
        if target == "tpcb":
            bench.create_tpcb()
        elif target == "pgledger":
            _create_pgledger(bench, options)
        else:
            bench.create(target, USED)
    return kept


def _create_pgledger(bench: Bench, options: Options) -> None:
    """Load pgledger's own SQL, and as many accounts as ours, without limits; ANALYZE as for ours."""
    assert options.pgledger is not None
    bench.create("pgledger")
    with bench.connect("pgledger") as connection:
        folder = options.pgledger.resolve().parent / "vendor/scoville-pgsql-ulid"  # pgledger.sql calls its functions
        for path in [*sorted(folder.glob("*.sql")), options.pgledger]:
            connection.execute(path.read_text(encoding="utf-8").encode())
        connection.execute("create schema load")
        connection.execute("create table load.account (number bigint primary key, id text not null)")
        connection.execute(
            "insert into load.account select number, (pgledger_create_account('Load', 'EUR')).id "
            "from generate_series(1, %s) as number",
            [options.accounts],
        )
        assert one(connection.execute("select count(*) from load.account")) == options.accounts
        connection.execute("vacuum analyze")
