"""What is behind the service is restarted, paused or slow: PgBouncer, and PostgreSQL behind it."""

import itertools
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import APP_PASSWORD, Bank
from tests.faults import scene as scenes
from tests.faults import test_kill as load
from tests.http.conftest import balance_of, new_key, open_account, post, posted, problem_of
from tests.http_server import HttpServer, create_key, wait_for
from tests.pgbouncer import PgBouncer, needs_pgbouncer

pytestmark = needs_pgbouncer

TIMEOUT_SECONDS = 2
LATE_SECONDS = 1.5
"""How much later than its deadline an answer may come on a machine that is busy."""


@pytest.fixture
def scene() -> Iterator[tuple[scenes.Scene, PgBouncer]]:
    """PostgreSQL, PgBouncer before it, and a service that goes through it."""
    with tempfile.TemporaryDirectory(prefix="pgteller-faults-") as directory:
        Path(directory).chmod(0o755)
        with scenes.running(Path(directory)) as scene:
            pooler = PgBouncer(scene.server, {"bank_app": APP_PASSWORD}, default_pool_size=3)
            http = HttpServer(pooler.of(scene.bank.app_url), request_timeout_seconds=2, hold_sweep_seconds=1)
            try:
                pooler.start()
                http.start()
                yield replace(scene, http=http), pooler
            finally:
                http.stop()
                pooler.close()


def test_what_was_acknowledged_is_there_exactly_once_after_the_pooler_and_the_server_were_killed(
    scene: tuple[scenes.Scene, PgBouncer],
) -> None:
    behind, pooler = scene

    def kill_pooler() -> None:
        pooler.kill()
        pooler.start()

    faults: dict[str, Callable[[], None]] = {
        "pooler killed": kill_pooler,
        "server killed": lambda: scenes.kill_postmaster(behind),
        "server connections ended": lambda: end_backends(behind.bank),
    }
    with behind.bank.connect() as app:
        query = "select account_id from bank.open_account('Ada Lovelace', 'EUR', null)"
        account_ids = [app.execute(query).fetchall()[0]["account_id"] for _ in range(load.ACCOUNTS)]
    record, stop, done = load.Record(), threading.Event(), Counter[str]()
    end = time.monotonic() + scenes.SECONDS
    with ThreadPoolExecutor(load.CLIENTS) as threads:
        try:
            lists = [load.requests_of(number, account_ids) for number in range(load.CLIENTS)]
            clients = [threads.submit(load.run_client, requests, behind, record, stop) for requests in lists]
            for name, fault in itertools.cycle(faults.items()):
                load.await_progress(record)
                if time.monotonic() > end and len(done) == len(faults):
                    break
                fault()
                done[name] += 1
        finally:
            stop.set()
        for client in clients:
            client.result()
    print(f"\n{dict(done)}; {len(record.acknowledged)} postings acknowledged; answers: {dict(Counter(record.seen))}")
    assert record.unexpected == []
    behind.http.await_ready()
    assert "internal_error" not in behind.http.log()
    load.assert_ledger_is_what_was_acknowledged(behind, record)
    load.assert_replays_are_the_first_outcome(behind, record)


def end_backends(bank: Bank) -> None:
    with bank.connect() as superuser:
        superuser.execute("reset role")
        superuser.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'bank_app'")


@pytest.mark.parametrize("what", ["paused pooler", "silent pooler", "silent server"])
def test_every_request_is_answered_by_its_deadline_and_truthfully_behind(bank: Bank, what: str) -> None:
    key, _ = create_key(bank)
    pooler = PgBouncer(bank.server, {"bank_app": APP_PASSWORD}, default_pool_size=2)
    http = HttpServer(pooler.of(bank.app_url), workers=1, request_timeout_seconds=TIMEOUT_SECONDS, hold_sweep_seconds=0)
    try:
        pooler.start()
        http.start()
        with http.client(key) as client:
            account_id = open_account(client, balance_minor=10)
            path, headers = f"/v1/accounts/{account_id}/credit", new_key()
            # Without the postmaster the pooler could open another connection.
            server = [postmaster_pid(bank), *backend_pids(bank)]
            if what == "paused pooler":
                pooler.admin("PAUSE")
            else:
                for pid in [pooler.pid] if what == "silent pooler" else server:
                    os.kill(pid, signal.SIGSTOP)
            try:
                answer = client.post(path, json={"amount_minor": 5}, headers=headers)
                assert answer.elapsed.total_seconds() < TIMEOUT_SECONDS + LATE_SECONDS
                problem_of(answer, 503, answer.json()["code"])
                assert answer.json()["code"] in ("outcome_unknown", "database_unavailable")
                assert client.get("/health/ready").status_code == 503
                assert client.get("/health/live").status_code == 200
            finally:
                if what == "paused pooler":
                    pooler.admin("RESUME")
                else:
                    for pid in [pooler.pid] if what == "silent pooler" else server:
                        os.kill(pid, signal.SIGCONT)
            wait_for(lambda: client.get("/health/ready").status_code == 200, "it is ready again")
            again = client.post(path, json={"amount_minor": 5}, headers=headers)
            assert again.status_code in (200, 201), again.text
            assert balance_of(client, account_id) == 15
            posted(post(client, path, {"amount_minor": 1}))
    finally:
        http.stop()
        pooler.close()


def test_a_query_that_waited_too_long_for_the_pooler_is_told_apart_from_a_silent_server(bank: Bank) -> None:
    key, _ = create_key(bank)
    pooler = PgBouncer(bank.server, {"bank_app": APP_PASSWORD}, query_wait_timeout=1)
    http = HttpServer(pooler.of(bank.app_url), workers=1, request_timeout_seconds=4, hold_sweep_seconds=0)
    try:
        pooler.start()
        http.start()
        with http.client(key) as client:
            account_id = open_account(client)
            pooler.admin("PAUSE")
            try:
                answer = post(client, f"/v1/accounts/{account_id}/credit", {"amount_minor": 5})
                # Between its last words and its end libpq often sees the end alone.
                assert answer.json()["code"] in ("outcome_unknown", "database_unavailable")
                problem_of(answer, 503, answer.json()["code"])
                wait_for(lambda: "default_pool_size is too small" in http.log(), "the log says why")
            finally:
                pooler.admin("RESUME")
            wait_for(lambda: client.get("/health/ready").status_code == 200, "it is ready again")
            assert balance_of(client, account_id) == 0
    finally:
        http.stop()
        pooler.close()


def postmaster_pid(bank: Bank) -> int:
    with bank.connect() as superuser:
        superuser.execute("reset role")
        [row] = superuser.execute("select split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::integer as pid")
        pid: int = row["pid"]
        return pid


def backend_pids(bank: Bank) -> list[int]:
    with bank.connect() as superuser:
        superuser.execute("reset role")
        query = "select pid from pg_stat_activity where usename = 'bank_app' and datname = current_database()"
        return [row["pid"] for row in superuser.execute(query)]
