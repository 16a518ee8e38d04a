"""The transactions of a real bank: a year of credits and debits of 1,139 accounts, in the order of the file.

The file is shared between projects and read where it is. Each run posts all of it into an empty bank, so seconds do not
apply, and compares each balance with the one that the bank recorded.
"""

import time
from pathlib import Path

import psycopg

from benchmarks.load import LoadError, Measure, quantile
from benchmarks.plan import Group, Workload, interleave
from benchmarks.server import EMPTY, Bench
from service.import_file import ImportFile, Row
from service.importer import ImportOptions, Tally, run_import

FILE = Path(__file__).resolve().parents[2] / "shared/data/berka/transactions-1993.csv"
TABLES = {
    "berka": (
        Workload("berka_http", "Berka, pgteller import over HTTP, 16 connections", None, "pgteller", 16),
        Workload("berka_sql", "Berka, bank.post, 1,000 items, 1 connection", None, "bank", 1, 1_000),
    )
}
CURRENCY = "CZK"
OVERDRAFT_MINOR = 1_000_000
ROUNDS_MAX = 2
"""Each posts all of the file, and none needs to warm up."""


def run_group(bench: Bench) -> Group:
    """Post the file in both ways, each into a bank of its own, and verify."""
    group = Group(violations=0)
    if not FILE.exists():
        group.note(f"berka was left out: {FILE} is not there")
        return group
    workloads = [workload for workload in TABLES["berka"] if bench.options.wants("berka", workload)]
    bench.checkpoint()

    def measure(workload: Workload, _number: int) -> Measure:
        bench.create("berka", EMPTY)
        measured = over_http(bench, workload) if workload.target == "pgteller" else over_sql(bench, workload)
        violations, rejected = bench.verify("berka")
        group.violations = (group.violations or 0) + violations
        group.rejected += rejected
        return measured

    interleave(group, workloads, bench.options.round_numbers("berka")[-ROUNDS_MAX:], measure)
    bench.drop("berka")
    return group


def over_http(bench: Bench, workload: Workload) -> Measure:
    """Do what `pgteller import` does, opening the accounts included."""
    file = ImportFile(FILE, key_column=None, key_prefix="", currency=CURRENCY)
    survey = file.survey()
    tally = Tally()
    with bench.pgteller("berka") as url:
        options = ImportOptions(url=url, key=bench.key, connections=workload.connections)
        started = time.monotonic()
        run_import(file, survey, options, tally, lambda: None)
        seconds = time.monotonic() - started
    return Measure(rate=tally.posted / seconds, calls=tally.posted, failed=tally.failed, seconds=seconds)


def over_sql(bench: Bench, workload: Workload) -> Measure:
    """Open the accounts, then post the rows in batches; only that counts."""
    rows = [row for row in ImportFile(FILE, key_column=None, key_prefix="", currency=CURRENCY).rows()
            if isinstance(row, Row)]  # fmt: skip
    with psycopg.connect(bench.server.conninfo("berka"), autocommit=True) as connection:
        accounts: dict[str, int] = {}
        for name in dict.fromkeys(row.account for row in rows):
            opened = connection.execute(
                "select account_id from bank.open_account(%s, %s, %s, %s)", [name, CURRENCY, OVERDRAFT_MINOR, name]
            ).fetchone()
            assert opened is not None
            accounts[name] = opened[0]
        times_ms, failed = [], 0
        for start in range(0, len(rows), workload.items):
            batch = rows[start : start + workload.items]
            called = time.monotonic()
            outcomes = connection.execute(
                "select transaction_status::text from bank.post(%s, %s, %s, %s, %s)",
                [
                    [row.transaction_type for row in batch],
                    [accounts[row.account] if row.transaction_type == "debit" else None for row in batch],
                    [accounts[row.account] if row.transaction_type == "credit" else None for row in batch],
                    [row.amount_minor for row in batch],
                    [row.key for row in batch],
                ],
                prepare=True,
            ).fetchall()
            times_ms.append((time.monotonic() - called) * 1000)
            failed += sum(status != "success" for (status,) in outcomes)
        expected = {accounts[row.account]: row.expected_balance_minor for row in rows}
        for account_id, balance_minor in expected.items():
            found = connection.execute("select balance_minor from bank.balance(%s)", [account_id]).fetchone()
            if found != (balance_minor,):
                raise LoadError(f"the balance of account {account_id} is {found}, the bank recorded {balance_minor}")
    seconds = sum(times_ms) / 1000
    times_ms.sort()
    return Measure(
        rate=(len(rows) - failed) / seconds, calls=len(times_ms), failed=failed, seconds=seconds,
        p50_ms=quantile(times_ms, 0.5), p99_ms=quantile(times_ms, 0.99), max_ms=times_ms[-1],
    )  # fmt: skip
