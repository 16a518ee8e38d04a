"""The service on a socket that somebody else keeps open, as systemd does: a restart refuses no connection."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from service.config import VARIABLES
from service.http_service import WORKING_DIRECTORY
from tests.conftest import Bank, Connection
from tests.helpers import balance_of, open_account
from tests.http_server import create_key, wait_for

CLIENTS = 4
POSTINGS = 40
# Becomes the service with the socket as descriptor 3: LISTEN_PID is the process that it is meant for. 65 is
# PR_SET_MDWE of <linux/prctl.h>, from Linux 6.3 on, which does what MemoryDenyWriteExecute= of systemd does.
ACTIVATE = """if True:
    import ctypes, os, sys
    descriptor, no_write_execute = int(sys.argv[1]), int(sys.argv[2])
    os.dup2(descriptor, 3, inheritable=True)
    if no_write_execute and ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:
        sys.exit("no PR_SET_MDWE")
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
    os.execv(sys.executable, [sys.executable, "-m", "service.cli", "serve"])
"""


class Activator:
    """Keeps the socket, and starts the service on it as often as it is told."""

    def __init__(self, bank: Bank, directory: Path) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.log = directory / "log"
        self._bank = bank
        self.process: subprocess.Popen[bytes] | None = None
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(directory / "notify"))

    def start(self, *, no_write_execute: bool = False) -> subprocess.Popen[bytes]:
        descriptor = self.listener.fileno()
        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES.values()}
        port = str(self.listener.getsockname()[1])  # which nobody else can claim
        environment |= {"DATABASE_URL": self._bank.app_url, "PORT": port, "NOTIFY_SOCKET": self.notified.getsockname()}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", ACTIVATE, str(descriptor), str(int(no_write_execute))],
                cwd=WORKING_DIRECTORY,
                env=environment,
                pass_fds=[descriptor],
                stdout=log,
                stderr=log,
            )
        return self.process

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health/ready", timeout=30).status_code == 200
        return False

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self.listener.close()
        self.notified.close()


@pytest.fixture
def activator(bank: Bank, tmp_path: Path) -> Iterator[Activator]:
    activator = Activator(bank, tmp_path)
    try:
        yield activator
    finally:
        activator.close()


def test_it_serves_on_the_socket_that_it_is_given_and_says_so(activator: Activator) -> None:
    activator.start()
    wait_for(activator.is_ready, "it is ready")
    assert f" at {activator.url}\n" in activator.log.read_text()
    activator.notified.settimeout(30)
    assert b"READY=1" in activator.notified.recv(1024)  # Type=notify


def test_it_runs_without_memory_that_is_written_and_executed(activator: Activator) -> None:
    if sys.platform != "linux" or tuple(map(int, os.uname().release.split(".")[:2])) < (6, 3):
        pytest.skip("this kernel cannot forbid it to a process")
    activator.start(no_write_execute=True)
    wait_for(activator.is_ready, "it is ready")


def test_a_client_that_connects_between_two_services_is_served_by_the_next(activator: Activator) -> None:
    first = activator.start()
    wait_for(activator.is_ready, "it is ready")
    first.terminate()
    assert first.wait(60) == 0
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(httpx.get, f"{activator.url}/health/ready", timeout=60)
        activator.start()
        assert answer.result().status_code == 200


def test_a_new_master_takes_over_the_socket_on_sigusr2(activator: Activator) -> None:
    first = activator.start()
    wait_for(activator.is_ready, "it is ready")
    workers = {each.pid for each in psutil.Process(first.pid).children()}
    first.send_signal(signal.SIGUSR2)

    def masters() -> list[psutil.Process]:
        return [each for each in psutil.Process(first.pid).children() if each.pid not in workers and each.children()]

    wait_for(lambda: bool(masters()), "there is another master, with workers")
    [second] = masters()
    try:
        first.terminate()
        assert first.wait(60) == 0
        assert httpx.get(f"{activator.url}/health/ready", timeout=60).status_code == 200
        assert "Traceback" not in activator.log.read_text()
    finally:
        second.terminate()
        wait_for(lambda: not second.is_running(), "the other master is gone")


def test_a_restart_under_load_refuses_no_connection_and_loses_no_posting(
    activator: Activator, bank: Bank, app: Connection
) -> None:
    account_id, (key, _) = open_account(app), create_key(bank, "transactions:write")
    restarted, lock = threading.Event(), threading.Lock()
    posted: list[int] = []
    refused: list[Exception] = []

    def post(client: int) -> None:
        number = after = 0
        while after < POSTINGS:
            number += 1
            after += restarted.is_set()
            headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"{client}-{number}"}
            url = f"{activator.url}/v1/accounts/{account_id}/credit"
            while True:
                try:
                    # Each on a connection of its own.
                    answer = httpx.post(url, headers=headers, json={"amount_minor": 1}, timeout=60)
                except httpx.ConnectError as error:
                    refused.append(error)
                    continue
                except httpx.TransportError:  # cut off by the service that ends
                    continue
                if answer.status_code in (200, 201):
                    break
                assert answer.status_code == 503, answer.text
            with lock:
                posted.append(answer.status_code)

    first = activator.start()
    wait_for(activator.is_ready, "it is ready")
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(post, client) for client in range(CLIENTS)]
        wait_for(lambda: len(posted) >= POSTINGS, "postings before")
        first.terminate()
        assert first.wait(60) == 0
        activator.start()
        wait_for(activator.is_ready, "it is ready again")
        restarted.set()
        for client in clients:
            client.result(120)
    assert refused == []
    assert balance_of(app, account_id) == len(posted)
