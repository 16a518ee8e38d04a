"""The service as it runs in production, gunicorn and all, with handles on its processes."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar

import httpx
import psutil

from service import keys, launcher
from service.config import Settings
from service.http_service import WORKING_DIRECTORY, claim_port, gunicorn_command
from service.owner import call, connect
from tests.conftest import Bank, Connection

WAIT_SECONDS_MAX = 30.0
POLL_SECONDS = 0.02


def wait_for(condition: Callable[[], bool], what: str, seconds_max: float = WAIT_SECONDS_MAX) -> None:
    """Return when the condition holds; fail the test, saying what did not happen, when it takes too long."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds_max:g} s"
        time.sleep(POLL_SECONDS)


class HttpServer:
    """gunicorn as a child process that ends with us. Start it from the main thread, see service/launcher.py."""

    pooler: ClassVar[Callable[[str], str] | None] = None
    """Makes a URL one that leads through a pooler, where services are to go through one."""

    def __init__(self, database_url: str, **settings: int) -> None:
        if HttpServer.pooler is not None:
            database_url = HttpServer.pooler(database_url)
        # mypy takes **settings for every field of Settings.
        self.settings = claim_port(replace(Settings(), database_url=database_url, port=0, **settings))  # type: ignore[arg-type]
        self.address = (self.settings.host, self.settings.port)
        self.url = f"http://{self.settings.host}:{self.settings.port}"
        self._directory = tempfile.TemporaryDirectory(prefix="pgteller-http-")
        self._log = Path(self._directory.name, "log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "start it first"
        return self._process

    def start(self, *, ready: bool = True) -> None:
        """Start it and return when it is ready to serve, or at once when it is not going to be."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                launcher.command_line(gunicorn_command(), when_orphaned=signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=WORKING_DIRECTORY,
                env=self.settings.to_environment(),
                start_new_session=True,
            )
        if ready:
            self.await_ready()

    def await_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, f"the service ended: {self.log()}"
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{self.url}/health/ready").status_code == 200
            return False

        wait_for(ready, "the service is ready")

    def worker_pids(self) -> list[int]:
        """Pids of the workers that live, oldest first."""
        return sorted(child.pid for child in psutil.Process(self.process.pid).children())

    def terminate(self) -> None:
        """Ask it to finish the requests in flight and end."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it and all its processes, also when it has ended or was killed before."""
        if self._process is not None:
            if self._process.poll() is None:
                self.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(WAIT_SECONDS_MAX)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._directory.cleanup()

    def log(self) -> str:
        """Return what its processes have printed."""
        return self._log.read_text(errors="replace")

    def client(self, key: str | None = None) -> httpx.Client:
        """Return a client that sends this API key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=WAIT_SECONDS_MAX)

    def connect(self) -> socket.socket:
        """Return a connection for those who write their HTTP by hand."""
        return socket.create_connection(self.address, timeout=WAIT_SECONDS_MAX)


def create_key(bank: Bank, *scopes: str, ledger_id: int = 1, expires_at: datetime | None = None) -> tuple[str, int]:
    """Return a new API key with these scopes (admin when none is named), and its api_key_id."""
    key = keys.make()
    with connect(bank.owner_url) as owner:
        [row] = call(
            owner,
            "create_api_key",
            name="tests",
            key_digest=keys.digest(key),
            scopes=list(scopes or ("admin",)),
            expires_at=expires_at,
            ledger_id=ledger_id,
        )
    return key, row["api_key_id"]


def violations(connection: Connection) -> list[dict[str, object]]:
    """Return what bank.verify() finds wrong in any ledger."""
    return connection.execute("select * from bank.verify(null)").fetchall()
