"""GET /metrics: the figures of all workers together, and what waits in the coalescer."""

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.coalescer import SLOW_CALLS_MAX
from service.http_service import port_is_open
from tests.conftest import Bank, Connection
from tests.http.conftest import Service, balance_of, open_account, problem_of, transfer
from tests.http_server import HttpServer, create_key, violations, wait_for

REQUESTS = 40
WAITING = 30


def figure(http: HttpServer, name: str, **labels: str) -> float:
    """Scrape over a connection of its own, which any worker may take; 0 for a figure that is not there yet."""
    answer = httpx.get(f"{http.url}/metrics")
    assert answer.status_code == 200
    return sum(
        sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def figures_of(pid: int) -> list[Path]:
    """Return the files of the figures of a worker."""
    return sorted(
        file
        for directory in (tempfile.gettempdir(), "/dev/shm")  # noqa: S108 - of the service's own making
        for file in Path(directory).glob(f"pgteller-figures-*/*_{pid}.db")
    )


@contextmanager
def serving(bank: Bank, **settings: int) -> Iterator[HttpServer]:
    http = HttpServer(bank.app_url, lock_timeout_ms=0, **settings)
    try:
        http.start()
        yield http
    finally:
        http.stop()


def figures_directory_of(http: HttpServer) -> Path:
    [worker, *_] = http.worker_pids()
    return figures_of(worker)[0].parent


def test_the_next_service_removes_the_figures_of_one_that_was_killed_and_of_no_other(bank: Bank) -> None:
    with serving(bank, workers=1) as living, serving(bank, workers=1) as killed:
        kept, forgotten = figures_directory_of(living), figures_directory_of(killed)
        os.killpg(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
        assert forgotten.exists()
        with serving(bank, workers=1):
            assert not forgotten.exists()
            assert kept.exists()
            assert figure(living, "pgteller_http_requests_total") > 0
    assert not kept.exists()


def test_figures_are_kept_as_long_as_a_worker_of_a_killed_master_lives(bank: Bank) -> None:
    with serving(bank, workers=1) as killed:
        [worker] = killed.worker_pids()
        directory = figures_directory_of(killed)
        os.kill(worker, signal.SIGSTOP)  # or it would end when it sees that its master is gone
        killed.process.kill()
        killed.process.wait()
        with serving(bank, workers=1):
            assert directory.exists()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(worker), "the worker is gone")
        with serving(bank, workers=1):
            assert not directory.exists()


class Jam:
    """Transfers that wait for a lock in the database, in all calls that may be in flight, and others behind them."""

    def __init__(self, bank: Bank, http: HttpServer, database: Connection, threads: ThreadPoolExecutor) -> None:
        key, _ = create_key(bank)
        self._http, self._database, self._threads = http, database, threads
        self.client = http.client(key)
        self.debited, self.credited = open_account(self.client, balance_minor=100), open_account(self.client)
        self._locker = bank.connect("bank_owner", autocommit=False)
        self._locker.execute("select from bank.account where account_id = %s for update", [self.debited])
        self.answers: list[Future[httpx.Response]] = []
        self.calls = http.settings.coalescer_flushes_max + SLOW_CALLS_MAX
        for calls in range(1, self.calls + 1):
            self._submit(1)
            wait_for(lambda calls=calls: self._blocked() == calls, "a transfer waits for the lock")  # type: ignore[misc]

    def _submit(self, transfers: int) -> None:
        for _ in range(transfers):
            self.answers.append(self._threads.submit(transfer, self.client, self.debited, self.credited, 1))

    def _blocked(self) -> int:
        query = "select from pg_stat_activity where application_name = 'pgteller' and pg_blocking_pids(pid) <> '{}'"
        return len(self._database.execute(query).fetchall())

    def queue(self, transfers: int) -> None:
        """Return when this many more wait in the service."""
        self._submit(transfers)
        wait_for(lambda: self.queued() == transfers, "the others wait for the call in flight")

    def queued(self) -> float:
        return figure(self._http, "pgteller_coalescer_queued", function="post")

    def release(self) -> None:
        self._locker.rollback()

    def close(self) -> None:
        self._locker.close()
        self.client.close()


@contextmanager
def jammed(bank: Bank, http: HttpServer) -> Iterator[Jam]:
    with bank.connect("bank_owner") as database, ThreadPoolExecutor(WAITING + 5) as threads:
        jam = Jam(bank, http, database, threads)
        try:
            yield jam
            assert violations(database) == []
        finally:
            jam.close()


def test_whoever_can_reach_the_service_reads_the_figures(service: Service) -> None:
    with service.http.client() as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "pgteller_coalescer_flush_items_bucket" in answer.text


def test_figures_are_of_all_workers_whichever_is_asked(bank: Bank) -> None:
    def count() -> float:
        return figure(http, "pgteller_http_requests_total", route="/health/live", method="GET", status="200")

    with serving(bank, workers=2) as http:
        asked = 0
        while asked < REQUESTS or not all(figures_of(pid) for pid in http.worker_pids()):
            assert httpx.get(f"{http.url}/health/live").status_code == 200
            asked += 1
        assert {count() for _ in range(20)} == {asked}
        unknown = httpx.get(f"{http.url}/nothing/at/{asked}")
        assert unknown.status_code == 404
        assert figure(http, "pgteller_http_requests_total", route="none", status="404") == 1


def test_figures_tell_of_calls_and_of_what_waits(bank: Bank) -> None:
    def posts(name: str) -> float:
        return figure(http, f"pgteller_coalescer_{name}", function="post")

    with serving(bank, workers=1, coalescer_flushes_max=1, coalescer_queue_max=3) as http, jammed(bank, http) as jam:
        before = {name: posts(name) for name in ("flush_items_count", "flush_items_sum", "flush_seconds_count")}
        jam.queue(3)
        refused = transfer(jam.client, jam.debited, jam.credited, 1)
        problem_of(refused, 503, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        assert posts("refused_total") == 1
        jam.release()
        assert [answer.result().status_code for answer in jam.answers] == [201] * (jam.calls + 3)
        assert balance_of(jam.client, jam.credited) == jam.calls + 3
        # The calls that waited for the lock were counted when they began, and timed when they ended.
        assert posts("flush_items_count") == before["flush_items_count"] + 1
        assert posts("flush_items_sum") == before["flush_items_sum"] + 3
        assert posts("flush_seconds_count") == before["flush_seconds_count"] + jam.calls + 1
        assert posts("wait_seconds_count") == posts("flush_items_count")
        assert posts("queued") == 0


def test_a_worker_that_died_has_nothing_waiting_and_keeps_what_it_counted(bank: Bank) -> None:
    with serving(bank, workers=1, coalescer_flushes_max=1) as http, jammed(bank, http) as jam:
        calls = figure(http, "pgteller_coalescer_flush_items_count", function="post")
        jam.queue(3)
        [pid] = http.worker_pids()
        os.kill(pid, signal.SIGKILL)
        for answer in jam.answers:
            assert isinstance(answer.exception(), httpx.TransportError)
        wait_for(lambda: pid not in http.worker_pids(), "the master has noticed")
        http.await_ready()
        assert jam.queued() == 0
        assert figure(http, "pgteller_coalescer_flush_items_count", function="post") == calls
        jam.release()


def test_the_folder_of_the_figures_ends_with_the_service(bank: Bank) -> None:
    with serving(bank, workers=1) as http:
        [pid] = http.worker_pids()
        [folder] = {file.parent for file in figures_of(pid)}
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


@pytest.mark.parametrize("flushes_max", [1, 2])
def test_an_orderly_end_posts_everything_that_waits_and_takes_nothing_new(bank: Bank, flushes_max: int) -> None:
    with serving(bank, workers=1, coalescer_flushes_max=flushes_max) as http, jammed(bank, http) as jam:
        if flushes_max == 1:
            jam.queue(WAITING)
        http.terminate()
        wait_for(lambda: not port_is_open(http.address), "new connections are refused")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{http.url}/health/live")
        assert not any(answer.done() for answer in jam.answers)
        jam.release()
        assert [answer.result().status_code for answer in jam.answers] == [201] * len(jam.answers)
        posted = [answer.result().json()["credit_balance_after_minor"] for answer in jam.answers]
        assert sorted(posted) == list(range(1, len(jam.answers) + 1))
        assert http.process.wait(http.settings.graceful_timeout_seconds) == 0
