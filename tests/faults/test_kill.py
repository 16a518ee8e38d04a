"""kill -9 of PostgreSQL, of one of its backends and of a worker of the service, while clients post.

For a longer run by hand: PGTELLER_FAULT_SECONDS=600 .venv/bin/pytest tests/faults -s --timeout 900
"""

import itertools
import os
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from service.embedded import EmbeddedPostgres
from service.migrate import migrate
from tests.conftest import APP_PASSWORD, Bank
from tests.http_server import HttpServer, create_key, violations, wait_for

SECONDS = float(os.environ.get("PGTELLER_FAULT_SECONDS", "8"))
CLIENTS = 8
ACCOUNTS = 5  # few, so that postings wait for each other
STEPS = 200  # postings acknowledged before the next fault
RECOVERY_SECONDS_MAX = 60.0
RETRY_SECONDS = 0.02
REPLAYS = 200

ACKNOWLEDGED = {200, 201}
ALLOWED = ACKNOWLEDGED | {503}


@dataclass(frozen=True)
class Request:
    """A posting with a key of its own, which is sent until it is acknowledged."""

    key: str
    path: str
    body: dict[str, int]
    changes: dict[int, int]
    """What it does to the balance of each account."""


@dataclass
class Record:
    """What the clients saw. Appending is atomic, so that the threads share it."""

    acknowledged: list[tuple[Request, int]] = field(default_factory=list)
    """With the transaction_id of the answer."""
    seen: list[str] = field(default_factory=list)
    """Each answer's status, or the name of the exception instead of one."""
    unexpected: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scene:
    """A server and a service of the test's own, and accounts without a limit."""

    server: EmbeddedPostgres
    bank: Bank
    http: HttpServer
    key: str
    account_ids: list[int]


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    pgbin = os.environ.get("PGTELLER_TEST_PGBIN")
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgresql"), pgbin=Path(pgbin) if pgbin else None)
    bank = Bank(server, "postgres")
    try:
        server.start()
        migrate(bank.owner_url)
        with psycopg.connect(bank.owner_url, autocommit=True) as connection:
            connection.execute(f"alter role bank_app login password '{APP_PASSWORD}'")
        with bank.connect() as app:
            query = "select account_id from bank.open_account('Ada Lovelace', 'EUR', null)"
            account_ids = [app.execute(query).fetchall()[0]["account_id"] for _ in range(ACCOUNTS)]
        http = HttpServer(bank.app_url, pool_timeout_seconds=2)
        try:
            http.start()
            yield Scene(server, bank, http, create_key(bank)[0], account_ids)
        finally:
            http.stop()
    finally:
        server.destroy()


def requests_of(client_number: int, account_ids: list[int]) -> Iterator[Request]:
    """Every client's own endless list: transfers in both directions, and credits."""
    for number in itertools.count():
        key = f"fault-{client_number}-{number}"
        amount_minor = 1 + number % 97
        one = account_ids[(client_number + number) % len(account_ids)]
        two = account_ids[(client_number + number // 2 + 1) % len(account_ids)]
        if number % 3 == 0 or one == two:
            yield Request(key, f"/v1/accounts/{one}/credit", {"amount_minor": amount_minor}, {one: amount_minor})
        else:
            body = {"debit_account_id": one, "credit_account_id": two, "amount_minor": amount_minor}
            yield Request(key, "/v1/transfers", body, {one: -amount_minor, two: amount_minor})


def run_client(scene: Scene, number: int, record: Record, stop: threading.Event) -> None:
    """Post until told to stop, and then finish what was begun: a request is given up only when time is."""
    with scene.http.client(scene.key) as client:
        for request in requests_of(number, scene.account_ids):
            if stop.is_set() or record.unexpected:
                return
            deadline = time.monotonic() + RECOVERY_SECONDS_MAX
            while not sent(client, request, record):
                if record.unexpected:
                    return
                if time.monotonic() > deadline:
                    record.unexpected.append(f"{request.key} was not acknowledged: {record.seen[-20:]}")
                    return
                time.sleep(RETRY_SECONDS)


def sent(client: httpx.Client, request: Request, record: Record) -> bool:
    """Send it once; return whether it was acknowledged."""
    try:
        answer = client.post(request.path, json=request.body, headers={"Idempotency-Key": request.key})
    except httpx.TransportError as error:
        record.seen.append(type(error).__name__)
        return False
    record.seen.append(str(answer.status_code))
    if answer.status_code in ACKNOWLEDGED:
        record.acknowledged.append((request, answer.json()["transaction_id"]))
        return True
    if answer.status_code not in ALLOWED:
        record.unexpected.append(f"{request.key}: {answer.status_code} {answer.text}")
    return False


def kill_postmaster(scene: Scene) -> None:
    assert scene.server.pid is not None
    os.kill(scene.server.pid, signal.SIGKILL)
    wait_for(lambda: not scene.server.is_running(), "the postmaster has died")
    scene.server.start()


def kill_backend(scene: Scene) -> None:
    """Kill a backend of the service, whereupon PostgreSQL ends all the others and recovers."""
    killed: list[psutil.Process] = []

    def kill() -> bool:
        # The server may still be recovering from the fault before, and the backend may just be going.
        with (
            suppress(psycopg.OperationalError, psutil.NoSuchProcess),
            psycopg.connect(scene.bank.owner_url) as connection,
        ):
            query = "select pid from pg_stat_activity where application_name = 'pgteller' order by state limit 1"
            for (pid,) in connection.execute(query):
                backend = psutil.Process(pid)
                backend.kill()
                killed.append(backend)
        return bool(killed)

    wait_for(kill, "a backend of the service is killed")
    wait_for(lambda: not killed[0].is_running(), "the backend has died")


def kill_worker(scene: Scene) -> None:
    before = scene.http.worker_pids()
    os.kill(before[0], signal.SIGKILL)
    wait_for(
        lambda: before[0] not in (now := scene.http.worker_pids()) and len(now) == len(before),
        "the worker is replaced",
    )


FAULTS: list[Callable[[Scene], None]] = [kill_postmaster, kill_backend, kill_worker]


def test_what_was_acknowledged_is_there_exactly_once_after_kill_9_of_everything(scene: Scene) -> None:
    record, stop, faults = Record(), threading.Event(), Counter[str]()
    end = time.monotonic() + SECONDS
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients: list[Future[None]] = []
        try:
            clients = [threads.submit(run_client, scene, n, record, stop) for n in range(CLIENTS)]
            for fault in itertools.cycle(FAULTS):
                await_progress(record)
                if time.monotonic() > end and len(faults) == len(FAULTS):
                    break
                fault(scene)
                faults[fault.__name__] += 1
        finally:
            stop.set()
        for client in clients:
            client.result()
    seen = Counter(record.seen)
    print(f"\n{dict(faults)}; {len(record.acknowledged)} postings acknowledged; answers: {dict(seen)}")

    assert record.unexpected == []
    scene.http.await_ready()
    assert "internal_error" not in scene.http.log()
    assert_ledger_is_what_was_acknowledged(scene, record)
    assert_replays_are_the_first_outcome(scene, record)


def await_progress(record: Record) -> None:
    """Return when the clients have got further: the service has recovered from the last fault by itself."""
    goal = len(record.acknowledged) + STEPS
    wait_for(
        lambda: len(record.acknowledged) >= goal or bool(record.unexpected),
        "postings are acknowledged again",
        RECOVERY_SECONDS_MAX,
    )
    assert record.unexpected == []


def assert_ledger_is_what_was_acknowledged(scene: Scene, record: Record) -> None:
    balances: defaultdict[int, int] = defaultdict(int)
    for request, _ in record.acknowledged:
        for account_id, change_minor in request.changes.items():
            balances[account_id] += change_minor
    with scene.bank.connect("bank_owner") as owner:
        query = "select idempotency_key, transaction_id, transaction_status::text as status from bank.transaction"
        posted = sorted(tuple(row.values()) for row in owner.execute(query).fetchall())
        assert posted == sorted((request.key, number, "success") for request, number in record.acknowledged)
        query = "select account_id, balance_minor from bank.account where not settlement"
        assert {row["account_id"]: row["balance_minor"] for row in owner.execute(query)} == balances
        assert violations(owner) == []


def assert_replays_are_the_first_outcome(scene: Scene, record: Record) -> None:
    with scene.http.client(scene.key) as client:
        for request, transaction_id in record.acknowledged[:: 1 + len(record.acknowledged) // REPLAYS]:
            answer = client.post(request.path, json=request.body, headers={"Idempotency-Key": request.key})
            assert (answer.status_code, answer.json()["transaction_id"]) == (200, transaction_id)
