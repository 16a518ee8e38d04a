"""A database that does not answer: every request is answered by its deadline all the same, and truthfully."""

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.conftest import Bank, Connection
from tests.http.conftest import balance_of, new_key, open_account, post, problem_of, transfer
from tests.http.test_metrics import figure
from tests.http_server import HttpServer, create_key, violations, wait_for
from tests.proxy import proxied

TIMEOUT_SECONDS = 2
LATE_SECONDS = 1.5
"""How much later than its deadline an answer may come on a machine that is busy."""


@contextmanager
def serving(url: str, **settings: int) -> Iterator[HttpServer]:
    http = HttpServer(url, workers=1, request_timeout_seconds=TIMEOUT_SECONDS, hold_sweep_seconds=0, **settings)
    try:
        http.start()
        yield http
        assert "Traceback" not in http.log(), http.log()
    finally:
        http.stop()


@pytest.fixture
def through() -> Iterator[Path]:
    """A folder with a short name, for a socket."""
    with tempfile.TemporaryDirectory(prefix="pgteller-") as directory:
        yield Path(directory)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def backends(owner: Connection) -> list[int]:
    query = "select pid from pg_stat_activity where application_name = 'pgteller' and datname = current_database()"
    return [row["pid"] for row in owner.execute(query)]


def test_every_request_is_answered_by_its_deadline_while_the_database_is_silent(
    bank: Bank, owner: Connection, through: Path
) -> None:
    key, _ = create_key(bank)
    with proxied(bank, through) as (proxy, url), serving(url, key_cache_seconds=60) as http, http.client(key) as client:
        ada, bob = open_account(client, balance_minor=100), open_account(client)
        hold_id = post(client, "/v1/holds", {"account_id": ada, "amount_minor": 1}).json()["transaction_id"]
        headers = [new_key() for _ in range(3)]

        def writes() -> list[httpx.Response]:
            return [
                *threads.map(lambda header: transfer(client, ada, bob, 1, **header), headers),
                post(client, "/v1/holds", {"account_id": ada, "amount_minor": 1}),
            ]

        def ask(path: str, key: str = key) -> httpx.Response:
            return client.get(path, headers={"Authorization": f"Bearer {key}"})

        with ThreadPoolExecutor(20) as threads:
            proxy.silent.set()
            written = threads.submit(writes)
            paths = [f"/v1/accounts/{ada}/balance", f"/v1/accounts/{ada}", f"/v1/holds/{hold_id}"]
            reads = [threads.submit(ask, path) for path in paths]
            unknown_key = threads.submit(ask, paths[0], "sk_of_nobody")
            ready = client.get("/health/ready")
            assert ready.elapsed.total_seconds() < 2  # 0.8 s, and a busy machine
            assert (ready.status_code, ready.json()["checks"]) == (
                503, {"database": "not reachable, or does not answer in time"},
            )  # fmt: skip
            for answer in [*(read.result() for read in reads), unknown_key.result()]:
                problem_of(answer, 503, "database_unavailable")
                assert answer.elapsed.total_seconds() < TIMEOUT_SECONDS + LATE_SECONDS
            for answer in written.result():
                problem_of(answer, 503, answer.json()["code"])
                assert answer.json()["code"] in ("outcome_unknown", "database_unavailable")
                assert answer.elapsed.total_seconds() < TIMEOUT_SECONDS + LATE_SECONDS
            assert client.get("/health/live").status_code == 200

            proxy.silent.clear()
            wait_for(lambda: client.get("/health/ready").status_code == 200, "the service is ready again", 10)
            wait_for(lambda: ask(paths[0]).status_code == 200, "reads are answered again", 10)
            assert {answer.status_code for answer in writes()} <= {200, 201}
        assert balance_of(client, bob) == 3
        assert violations(owner) == []


def test_one_silent_connection_holds_up_those_alone_whose_call_it_has(bank: Bank, owner: Connection) -> None:
    key, _ = create_key(bank)
    with serving(bank.app_url, key_cache_seconds=60) as http, http.client(key) as client:
        ada, bob = open_account(client, balance_minor=1000), open_account(client)
        with ThreadPoolExecutor(20) as threads:

            def grown() -> bool:
                list(threads.map(lambda _: client.get(f"/v1/accounts/{ada}/entries"), range(40)))
                return len(backends(owner)) > 2

            wait_for(grown, "the pool has some connections")
            with stopped(backends(owner)[-1]):
                statuses = [
                    status
                    for _ in range(10)
                    for status in threads.map(
                        lambda number: (
                            (
                                transfer(client, ada, bob, 1)
                                if number % 2
                                else client.get(f"/v1/accounts/{ada}/balance")
                            ).status_code
                        ),
                        range(10),
                    )
                ]
        # Nobody waits for a connection that was cut, so that it is met once or twice.
        assert statuses.count(503) <= 20
        assert set(statuses) <= {200, 201, 503}
        assert violations(owner) == []


def test_what_was_not_sent_by_its_deadline_is_never_sent(bank: Bank, owner: Connection) -> None:
    key, _ = create_key(bank)
    with (
        serving(bank.app_url, key_cache_seconds=60, pool_connections_max=1) as http,
        http.client(key) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        ada, bob = open_account(client, balance_minor=100), open_account(client)
        assert transfer(client, ada, bob, 1).status_code == 201  # which prepares the statement
        sent, unsent = new_key(), new_key()
        [pid] = backends(owner)
        calls = figure(http, "pgteller_coalescer_flush_items_count", function="post")
        assert bank.server.pid is not None
        with stopped(pid), stopped(bank.server.pid):
            first = threads.submit(transfer, client, ada, bob, 1, **sent)
            begun = partial(figure, http, "pgteller_coalescer_flush_items_count", function="post")
            wait_for(lambda: begun() > calls, "the first one's call is in flight")
            second = transfer(client, ada, bob, 1, **unsent)
            problem_of(second, 503, "database_unavailable")
            problem_of(first.result(), 503, "outcome_unknown")
        wait_for(lambda: client.get(f"/v1/accounts/{ada}/balance").status_code == 200, "the service has recovered", 10)
        query = "select from bank.transaction where idempotency_key = %s"
        wait_for(lambda: bool(owner.execute(query, [sent["Idempotency-Key"]]).fetchall()), "what was sent is posted")
        assert owner.execute(query, [unsent["Idempotency-Key"]]).fetchall() == []
        assert transfer(client, ada, bob, 1, **sent).status_code == 200
        assert transfer(client, ada, bob, 1, **unsent).status_code == 201
