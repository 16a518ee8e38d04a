"""What the tests of faults share: a server and a service of their own, and what happens to them."""

import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from service.embedded import EmbeddedPostgres
from service.migrate import migrate
from tests.conftest import APP_PASSWORD, Bank
from tests.http_server import HttpServer, create_key, wait_for

SECONDS = float(os.environ.get("PGTELLER_FAULT_SECONDS", "8"))
RECOVERY_SECONDS_MAX = 60.0
RETRY_SECONDS = 0.02
CLIENT = "faults"
"""application_name of the clients that speak SQL."""

_DEADLOCK = re.compile(r"deadlock detected.*?HINT", re.DOTALL)
_FUNCTION = re.compile(r"Process \d+: .*?\"?bank\"?\.\"?(\w+)")


@dataclass(frozen=True)
class Scene:
    """A server and a service of the test's own."""

    server: EmbeddedPostgres
    bank: Bank
    http: HttpServer
    key: str
    ended_logs: list[str] = field(default_factory=list)
    """Of the starts of PostgreSQL before this one."""

    def deadlocks(self) -> Counter[str]:
        """Count the deadlocks that PostgreSQL found, those that the service retried too, by the functions in them."""
        log = "\n".join([*self.ended_logs, self.server.log_file.read_text(errors="replace")])
        return Counter(" - ".join(sorted(_FUNCTION.findall(found))) for found in _DEADLOCK.findall(log))


@contextmanager
def running(directory: Path, **settings: str) -> Iterator[Scene]:
    """Start PostgreSQL, with these settings, and the service, and end what is left of them."""
    pgbin = os.environ.get("PGTELLER_TEST_PGBIN")
    server = EmbeddedPostgres(directory, pgbin=Path(pgbin) if pgbin else None, settings=settings)
    bank = Bank(server, "postgres")
    try:
        server.start()
        migrate(bank.owner_url)
        with psycopg.connect(bank.owner_url, autocommit=True) as connection:
            connection.execute(f"alter role bank_app login password '{APP_PASSWORD}'")
        http = HttpServer(bank.app_url, request_timeout_seconds=2, hold_sweep_seconds=1)
        try:
            http.start()
            yield Scene(server, bank, http, create_key(bank)[0])
        finally:
            http.stop()
    finally:
        server.destroy()


def kill_postmaster(scene: Scene) -> None:
    assert scene.server.pid is not None
    os.kill(scene.server.pid, signal.SIGKILL)
    wait_for(lambda: not scene.server.is_running(), "the postmaster has died")
    restart(scene)


def restart(scene: Scene) -> None:
    """Start PostgreSQL, which has ended, again."""
    scene.ended_logs.append(scene.server.log_file.read_text(errors="replace"))
    scene.server.start()


def kill_backend(scene: Scene, application: str = "pgteller") -> None:
    """Kill a backend of the service, or of the clients, whereupon PostgreSQL ends all the others and recovers."""
    killed: list[psutil.Process] = []

    def kill() -> bool:
        # The server may still be recovering from the fault before, and the backend may just be going.
        with (
            suppress(psycopg.OperationalError, psutil.NoSuchProcess),
            psycopg.connect(scene.bank.owner_url) as connection,
        ):
            query = "select pid from pg_stat_activity where application_name = %s order by state, random() limit 1"
            for (pid,) in connection.execute(query, [application]):
                backend = psutil.Process(pid)
                backend.kill()
                killed.append(backend)
        return bool(killed)

    wait_for(kill, f"a backend of {application} is killed")
    wait_for(lambda: not killed[0].is_running(), "the backend has died")


def kill_worker(scene: Scene) -> None:
    before = scene.http.worker_pids()
    os.kill(before[0], signal.SIGKILL)
    wait_for(
        lambda: before[0] not in (now := scene.http.worker_pids()) and len(now) == len(before),
        "the worker is replaced",
    )


FAULTS: dict[str, Callable[[Scene], None]] = {
    "postmaster": kill_postmaster,
    "backend of the service": kill_backend,
    "worker": kill_worker,
}
