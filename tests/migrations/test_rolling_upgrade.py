"""A bank under load gets a next release: migrated first, then its services are replaced one by one.

PGTELLER_UPGRADE_TRANSACTIONS: of how many transactions; `-s` shows the longest wait of each kind.
"""

import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from service.config import Settings
from service.http_service import claim_port
from tests.conftest import Bank
from tests.helpers import Row, call, open_account, violations
from tests.http_server import create_key, wait_for
from tests.migrations.releases import NEXT_MIGRATIONS, next_release, present, run, start

TRANSACTIONS = int(os.environ.get("PGTELLER_UPGRADE_TRANSACTIONS", "2000"))
ACCOUNTS = 40
FILL = 10_000
SQL_SESSIONS = 3
NAMED = "transaction_id, transaction_status"

STALE = {"0A000", "42804", "42846", "XX000"}
"""What PostgreSQL answers to a call that was under way when its row type grew; nothing of it was left behind."""


class Service:
    """One service of a release, and how many requests it is answering."""

    def __init__(self, release: Path, bank: Bank) -> None:
        port = claim_port(replace(Settings(), port=0)).port
        self.url = f"http://127.0.0.1:{port}"
        self.in_flight = 0
        self.process = start(
            release,
            "serve",
            PATH=os.defpath,
            DATABASE_URL=bank.app_url,
            PORT=str(port),
            WEB_CONCURRENCY="1",
            HOLD_SWEEP_SECONDS="0",
        )

    def health(self) -> Row | None:
        with suppress(httpx.TransportError):
            answer = httpx.get(f"{self.url}/health/ready")
            return {"status_code": answer.status_code, **answer.json()}
        return None

    def await_ready(self) -> None:
        wait_for(lambda: (self.health() or {}).get("status_code") == 200, "the service is ready")

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


@dataclass
class Load:
    """Clients of every kind, and what they were answered."""

    bank: Bank
    key: str
    services: list[Service]
    posted: list[str] = field(default_factory=list)
    """The idempotency keys of what was acknowledged."""
    longest: dict[str, float] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    stale: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def measured(self, kind: str, call: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            call()
        except Exception as error:
            self.failed.append(f"{kind}: {error!r}")
        with self.lock:
            self.calls[kind] += 1
            self.longest[kind] = max(self.longest.get(kind, 0), time.monotonic() - began)

    def http(self) -> None:
        with ExitStack() as stack:
            clients: dict[str, httpx.Client] = {}
            while not self.done.is_set():
                with self.lock:
                    service = random.choice(self.services)  # noqa: S311 - not a secret
                    service.in_flight += 1
                if service.url not in clients:
                    headers = {"Authorization": f"Bearer {self.key}"}
                    client = httpx.Client(base_url=service.url, headers=headers, timeout=30)
                    clients[service.url] = stack.enter_context(client)
                try:
                    self.measured("HTTP posting", partial(self.http_posting, clients[service.url]))
                    self.measured("HTTP read", partial(self.http_read, clients[service.url]))
                finally:
                    with self.lock:
                        service.in_flight -= 1

    def http_posting(self, client: httpx.Client) -> None:
        debit, credit = two_accounts()
        key = uuid.uuid4().hex
        body = {"debit_account_id": debit, "credit_account_id": credit, "amount_minor": 1}
        answer = client.post("/v1/transfers", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 201, answer.text
        self.posted.append(key)

    def http_read(self, client: httpx.Client) -> None:
        account_id, _ = two_accounts()
        for path in (f"/v1/accounts/{account_id}", f"/v1/accounts/{account_id}/balance"):
            answer = client.get(path)
            assert answer.status_code == 200, answer.text

    def sql(self, columns: str, prepare: bool) -> None:
        kind = "prepared, named columns" if prepare else "not prepared, select *"
        connection = psycopg.connect(self.bank.app_url, autocommit=True, prepare_threshold=0 if prepare else None)
        with connection:
            while not self.done.is_set():
                self.measured(f"SQL posting, {kind}", lambda: self.sql_posting(connection, columns))
                self.measured(f"SQL read, {kind}", lambda: self.sql_read(connection))

    def sql_posting(self, connection: psycopg.Connection[Any], columns: str) -> None:
        debit, credit = two_accounts()
        key = uuid.uuid4().hex
        statement = f"select {columns} from bank.transfer(%s, %s, 1, %s)".encode()
        for _ in range(2):
            try:
                connection.execute(statement, [debit, credit, key]).fetchall()
            except psycopg.Error as error:
                if error.sqlstate not in STALE:
                    raise
                self.stale[f"{error.sqlstate} {error}".split("\n")[0]] += 1
            else:
                self.posted.append(key)
                return
        raise AssertionError("stale twice")

    def sql_read(self, connection: psycopg.Connection[Any]) -> None:
        account_id, _ = two_accounts()
        connection.execute("select balance_minor from bank.balance(%s)", [account_id]).fetchall()
        connection.execute("select transaction_id from bank.posting order by transaction_id desc limit 1").fetchall()

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.http) for _ in range(4)]
        threads += [threading.Thread(target=self.sql, args=("*", False)) for _ in range(2)]
        threads += [threading.Thread(target=self.sql, args=(NAMED, True))]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.done.set()
            for thread in threads:
                thread.join(60)

    def goes_on(self) -> None:
        """Return when every kind of call has been answered some times more."""
        before = Counter(self.calls)
        wait_for(lambda: all(self.calls[kind] > before[kind] + 5 for kind in before) or bool(self.failed), "all go on")

    def replace(self, before: Service, after: Service) -> None:
        """Send the requests to another service, and end this one when it has answered all that it got."""
        with self.lock:
            self.services[self.services.index(before)] = after
        wait_for(lambda: before.in_flight == 0, "the service has answered")
        before.stop()


def two_accounts() -> tuple[int, int]:
    debit, credit = random.sample(range(2, ACCOUNTS + 2), 2)
    return debit, credit


@contextmanager
def reader_of_a_view(bank: Bank, seconds: float) -> Iterator[None]:
    """Somebody who has read a view, and is idle in the transaction for a while."""
    with bank.connect("bank_reader", autocommit=False) as reader:
        reader.execute("select from bank.posting limit 1").fetchall()
        timer = threading.Timer(seconds, reader.rollback)
        timer.start()
        yield
        timer.join()


@pytest.fixture
def filled(bank: Bank) -> Bank:
    """A bank with accounts and a history."""
    with bank.connect() as app:
        for _ in range(ACCOUNTS):
            open_account(app, 10**9)
        for _ in range(0, TRANSACTIONS, FILL):
            app.execute(
                """
                select from bank.post_transfers(
                    array(select 2 + n %% %(accounts)s from generate_series(1, %(n)s) as n),
                    array(select 2 + (n + 1) %% %(accounts)s from generate_series(1, %(n)s) as n),
                    array(select 1 from generate_series(1, %(n)s) as n)
                )
                """,
                {"accounts": ACCOUNTS, "n": min(FILL, TRANSACTIONS)},
            )
    return bank


def test_a_next_release_arrives_under_load_and_no_request_fails(filled: Bank, tmp_path: Path) -> None:
    bank = filled
    before, after = present(tmp_path / "present"), next_release(tmp_path / "next")
    key, _ = create_key(bank)
    services = [Service(before, bank) for _ in range(2)]
    started = list(services)
    try:
        for service in services:
            service.await_ready()
        load = Load(bank, key, services)
        with load.running():
            wait_for(lambda: len(load.calls) == 6, "all have begun")
            load.goes_on()
            with reader_of_a_view(bank, 1.0):
                began = time.monotonic()
                migrated = run(after, "migrate", PATH=os.defpath, DATABASE_OWNER_URL=bank.owner_url)
                seconds = time.monotonic() - began
            assert migrated.returncode == 0, migrated.stderr
            assert migrated.stdout.splitlines()[:-1] == [f"applied {each}" for each in NEXT_MIGRATIONS]
            load.goes_on()
            for service in list(services):
                health = service.health()
                assert health is not None
                assert (health["status_code"], health["checks"]["version"]) == (200, "a newer version is installed")
                started.append(Service(after, bank))
                started[-1].await_ready()
                load.replace(service, started[-1])
                load.goes_on()
            for service in services:
                health = service.health()
                assert health is not None
                assert health["checks"]["version"] == "newest"
    finally:
        for service in started:
            if service.process.poll() is None:
                service.stop()

    print(f"\n{TRANSACTIONS:,} transactions before; migrate took {seconds:.1f} s; {migrated.stderr}")
    for kind, longest in sorted(load.longest.items()):
        print(f"{kind:40} {load.calls[kind]:7,} calls, longest wait {1000 * longest:6.0f} ms")
    print(f"calls under way when the row type grew: {dict(load.stale)}")
    assert load.failed == []
    # One call of each session that speaks SQL may have been under way; the service makes such a call again by itself.
    assert sum(load.stale.values()) <= SQL_SESSIONS
    with bank.connect("bank_owner") as owner:
        rows = owner.execute(
            "select idempotency_key, transaction_status::text from bank.transaction where idempotency_key = any(%s)",
            [load.posted],
        ).fetchall()
        assert Counter(row["idempotency_key"] for row in rows) == Counter(load.posted)
        assert {row["transaction_status"] for row in rows} == {"success"}
        assert violations(owner) == []
        assert call(owner, "account", 2)["tier"] == 0
