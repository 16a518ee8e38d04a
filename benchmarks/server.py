"""The PostgreSQL that everything runs on, its databases, and the HTTP services beside it."""

import http.client
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.load import run_pgbench
from benchmarks.plan import Options
from service import keys, launcher
from service.config import Settings
from service.embedded import EmbeddedPostgres
from service.http_service import WORKING_DIRECTORY, claim_port, gunicorn_command
from service.migrate import migrate

SERVER_SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "30min",
    "max_connections": "320",
}
"""Beside the durable ones. Room for WAL, so that no checkpoint falls into a run; connections for the run with 256."""

SHOWN_SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "max_connections",
    "autovacuum",
)
EMPTY, LOADED, USED = "template_empty", "template_loaded", "template_used"
"""A bank as it is installed; one with accounts and prepared batches; and that with a transfer for each account.

Rates are measured on copies of the last one: the planner knows no sizes of tables that were always empty.
"""
BATCH_ITEMS = (1, 10, 100, 1_000, 10_000)
BATCHES = 20
OVERDRAFT_MINOR = 9_007_199_254_740_991
STRIPES = 16
SEED_THREADS = 8
"""Of each worker of the seed's design; 4, 8, 16 and 32 were tried, and 8 was the fastest by a little."""
PEERS = Path(__file__).resolve().parent / "peers"

# The transfers of each batch in order, and for the ceiling what each account gains by them.
_PREPARE_BATCHES = """
create table load.batch (
    items integer, number integer, debit_account_ids bigint[], credit_account_ids bigint[], amounts_minor bigint[],
    account_ids bigint[], gains_minor bigint[], entries bigint[], primary key (items, number)
);
with item as materialized (
    select items, number, i, debit, 1 + floor(random() * 10000)::bigint as amount_minor,
        %(first)s + (debit - %(first)s + 1 + floor(random() * (%(accounts)s - 1))::bigint) %% %(accounts)s as credit
    from unnest(%(items)s::integer[]) as items, generate_series(1, %(batches)s) as number,
        generate_series(1, items) as i, lateral (
            select %(first)s + floor(random() * %(accounts)s)::bigint + 0 * i as debit
        ) as d
), gain as (
    select items, number, account_id, sum(gain)::bigint as gain_minor, count(*) as entries
    from item, lateral (values (debit, -amount_minor), (credit, amount_minor)) as side (account_id, gain)
    group by items, number, account_id
)
insert into load.batch
select * from (
    select items, number, array_agg(debit order by i), array_agg(credit order by i), array_agg(amount_minor order by i)
    from item group by items, number
) as transfers
join (
    select items, number, array_agg(account_id order by account_id), array_agg(gain_minor order by account_id),
        array_agg(entries order by account_id)
    from gain group by items, number
) as gains using (items, number)
"""


@dataclass(frozen=True)
class Accounts:
    """The accounts that are in every loaded bank."""

    first: int
    last: int
    """From first to last: EUR, each may overdraw, so that no transfer is rejected."""
    hot: int
    """Unlimited, one row."""
    striped: int | None
    """Unlimited, striped; None where the bank cannot do that."""
    history: int
    """Unlimited, for long statements."""

    @property
    def variables(self) -> dict[str, int]:
        """What the scripts know."""
        return {"first": self.first, "last": self.last, "hot": self.hot, "history": self.history, "batches": BATCHES}


class Bench:
    """A running server with the templates."""

    def __init__(self, server: EmbeddedPostgres, options: Options) -> None:
        self.server = server
        self.options = options
        self.key = keys.make()
        self._app_password = secrets.token_urlsafe(24)
        self.create(EMPTY)
        migrate(server.conninfo(EMPTY), self._app_password)
        with self.connect(EMPTY) as connection:
            connection.execute(
                "select bank.create_api_key('benchmarks', %s, %s)", [keys.digest(self.key), list(keys.SCOPES)]
            )
        self.create(LOADED, EMPTY)
        self.accounts = self._load()
        self.create(USED, LOADED)
        self._use()

    def _load(self) -> Accounts:
        with self.connect(LOADED) as connection:
            number = self.options.accounts
            ids = _column(
                connection.execute(
                    "select (bank.open_account('Load', 'EUR', %s)).account_id from generate_series(1, %s)",
                    [OVERDRAFT_MINOR, number],
                )
            )
            if ids != list(range(ids[0], ids[0] + number)):
                raise RuntimeError("the scripts count on account ids without gaps, and these have some")
            hot, striped, history = _column(
                connection.execute(
                    "select (bank.open_account('Hot', 'EUR', null)).account_id from generate_series(1, 3)"
                )
            )
            can_stripe = one(connection.execute("select count(*) from pg_proc where proname = 'stripe_account'"))
            if can_stripe:
                connection.execute("select bank.stripe_account(%s, %s)", [striped, STRIPES])
            connection.execute("create schema load")
            connection.execute("select setseed(%s)", [self.options.seed / 1e6])
            with connection.transaction(), psycopg.ClientCursor(connection) as cursor:
                arguments = {"first": ids[0], "accounts": number, "items": list(BATCH_ITEMS), "batches": BATCHES}
                cursor.execute(_PREPARE_BATCHES, arguments)
            connection.execute("vacuum analyze")
        return Accounts(ids[0], ids[-1], hot, striped if can_stripe else None, history)

    def _use(self) -> None:
        items = max(items for items in BATCH_ITEMS if items <= self.options.accounts)
        with self.connect(USED) as connection:
            for number in range(1, min(BATCHES, self.options.accounts // items) + 1):
                connection.execute(
                    "select count(*) from load.batch as b, lateral bank.post_transfers(b.debit_account_ids, "
                    "b.credit_account_ids, b.amounts_minor, array(select 'first ' || %s::text || ':' || i::text "
                    "from generate_series(1, b.items) as i)) where b.items = %s and b.number = %s",
                    [number, items, number],
                )
            connection.execute("vacuum analyze")

    def connect(self, database: str) -> psycopg.Connection:
        """Connect as the superuser, autocommit."""
        return psycopg.connect(self.server.conninfo(database), autocommit=True)

    def create(self, database: str, template: str = "template1") -> None:
        """Make a database anew as a copy of a template."""
        with self.connect("postgres") as connection:
            connection.execute(f"drop database if exists {database} with (force)")
            connection.execute(f"create database {database} template {template}")

    def drop(self, *databases: str) -> None:
        """Drop databases, whoever is connected."""
        with self.connect("postgres") as connection:
            for database in databases:
                connection.execute(f"drop database if exists {database} with (force)")

    def create_tpcb(self) -> None:
        """Make pgbench's tables, and touch each page of accounts.

        They have many more pages than ours: without this, nearly every transaction of a run would be the first one
        after a checkpoint to change its page, and write all of it to WAL.
        """
        self.create("tpcb")
        run_pgbench(self.server, "tpcb", ["--quiet", "--initialize", f"--scale={self.options.tpcb_scale}"])
        self.checkpoint()
        with self.connect("tpcb") as connection:
            connection.execute("update pgbench_accounts set abalance = abalance where aid % 50 = 0")
            connection.execute("vacuum pgbench_accounts")

    def checkpoint(self) -> None:
        """Have one now, so that none falls into the next minutes."""
        with self.connect("postgres") as connection:
            connection.execute("checkpoint")

    def app_url(self, database: str) -> str:
        """Return where the service connects: as bank_app."""
        return self.server.conninfo(database, "bank_app", self._app_password)

    def verify(self, database: str) -> tuple[int, int]:
        """Return how many violations the ledger has, and how many transfers are recorded as failures."""
        with self.connect(database) as connection:
            violations = one(connection.execute("select count(*) from bank.verify(null)"))
            rejected = one(
                connection.execute("select count(*) from bank.transaction where transaction_status = 'failure'")
            )
        return violations, rejected

    def shown_settings(self) -> dict[str, str]:
        """Return the settings that matter, as the server says them."""
        with self.connect("postgres") as connection:
            return {name: str(connection.execute(f"show {name}").fetchone()[0]) for name in SHOWN_SETTINGS}  # type: ignore[index]

    # ---- HTTP ----------------------------------------------------------------------------------------------

    @contextmanager
    def pgteller(self, database: str) -> Iterator[str]:
        """Run our service as `pgteller serve` does and give its URL. The environment's settings hold."""
        settings = replace(self.service_settings(), database_url=self.app_url(database))
        with _gunicorn(gunicorn_command(), settings, {}) as url:
            yield url

    @contextmanager
    def noop(self) -> Iterator[str]:
        """Run peers/noop.py: our gunicorn.conf.py, so the same worker class and the same number of workers."""
        command = [*gunicorn_command()[:-1], "--pythonpath", str(PEERS), "noop:create_app()"]
        # Our gunicorn.conf.py asks for a database, which noop.py does not use.
        settings = replace(self.service_settings(), database_url=self.app_url("postgres"))
        with _gunicorn(command, settings, {}) as url:
            yield url

    @contextmanager
    def seed(self, database: str) -> Iterator[str]:
        """Run peers/seed_app.py."""
        settings = self.service_settings()
        command = [sys.executable, "-m", "gunicorn", "--worker-class=gthread", f"--threads={SEED_THREADS}"]
        command += [f"--workers={settings.workers}", f"--bind={settings.host}:{settings.port}", "--keep-alive=75"]
        command += ["--log-level=warning", "--no-control-socket", "--pythonpath", str(PEERS), "seed_app:create_app()"]
        environment = {"DATABASE_URL": self.server.conninfo(database), "SEED_THREADS": str(SEED_THREADS)}
        with _gunicorn(command, settings, environment) as url:
            yield url

    @staticmethod
    def service_settings() -> Settings:
        """Return the settings of the environment with a free port of 127.0.0.1; less said in the log."""
        settings = replace(Settings.from_environment(), host="127.0.0.1", port=0, database_owner_url=None)
        return claim_port(replace(settings, database_url=None, log_level="warning"))


@contextmanager
def running_bench(options: Options) -> Iterator[Bench]:
    """Start a server of our own, and destroy it with its data at the end, also after Ctrl-C or SIGTERM."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="pgteller-bench-") as directory:
        settings = Settings.from_environment()
        server = EmbeddedPostgres(Path(directory), pgbin=settings.pgbin, settings=SERVER_SETTINGS)
        try:
            server.start()
            yield Bench(server, options)
        finally:
            server.destroy()
            signal.signal(signal.SIGTERM, previous)


@contextmanager
def _gunicorn(command: Sequence[str], settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    """Run gunicorn until the end of the block, and give its URL when it answers."""
    process = subprocess.Popen(
        launcher.command_line(command, when_orphaned=signal.SIGTERM),
        cwd=WORKING_DIRECTORY,
        env=settings.to_environment() | dict(environment),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches us alone
    )
    try:
        _await_answer(process, settings)
        yield f"http://{settings.host}:{settings.port}"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(settings.graceful_timeout_seconds)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await_answer(process: "subprocess.Popen[bytes]", settings: Settings) -> None:
    """Return when the service answers: it is ready, or has no such path."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection(settings.host, settings.port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            if connection.getresponse().status in (http.client.OK, http.client.NOT_FOUND):
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise RuntimeError("the HTTP service did not start; its messages above say why")


def one(cursor: "psycopg.Cursor[Any]") -> int:
    """Return the only number of a query's result."""
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def _column(cursor: "psycopg.Cursor[Any]") -> list[int]:
    return [int(row[0]) for row in cursor.fetchall()]
