"""What is slow, stands still or takes no writes for some seconds, and then goes on by itself."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from tests.faults.disk import Disk
from tests.faults.scene import Scene, restart
from tests.http_server import wait_for

FILLER = "create table public.filler as select repeat('x', 1000) as text from generate_series(1, 100000)"


def stop_worker(scene: Scene, seconds: float) -> None:
    with stopped(scene.http.worker_pids()[0]):
        time.sleep(seconds)


def stop_backend(scene: Scene, seconds: float) -> None:
    """Of the service, and one that is in a call if there is one."""
    query = "select pid from pg_stat_activity where application_name = 'pgteller' order by state, random() limit 1"
    pids: list[int] = []

    def is_found() -> bool:
        with psycopg.connect(scene.bank.owner_url) as connection:
            pids[:] = [pid for (pid,) in connection.execute(query)]
        return bool(pids)

    wait_for(is_found, "the service has a connection")
    with stopped(pids[0]):
        time.sleep(seconds)


def stop_postmaster(scene: Scene, seconds: float) -> None:
    """Nobody can connect; those who are connected work on."""
    assert scene.server.pid is not None
    with stopped(scene.server.pid):
        time.sleep(seconds)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP, and SIGCONT."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # somebody may have killed it
            os.kill(pid, signal.SIGCONT)


def lock_row(scene: Scene, account_id: int, seconds: float) -> None:
    """Hold the lock of an account's row in somebody's own SQL transaction."""
    with psycopg.connect(scene.bank.owner_url) as connection:
        connection.execute("select from bank.account where account_id = %s for update", [account_id])
        time.sleep(seconds)
        connection.rollback()


def make_read_only(scene: Scene, seconds: float) -> None:
    with psycopg.connect(scene.bank.owner_url, autocommit=True) as connection:
        connection.execute("alter system set default_transaction_read_only = on")
        connection.execute("select pg_reload_conf()")
        try:
            time.sleep(seconds)
        finally:
            connection.execute("alter system reset default_transaction_read_only")
            connection.execute("select pg_reload_conf()")


def fill_disk(scene: Scene, disk: Disk, seconds: float) -> None:
    """Leave no room on it until the server was refused some. It may have ended then, and is started again."""
    disk.fill()
    try:
        wait_for(lambda: _is_refused_room(scene), "PostgreSQL is refused room on the disk")
        time.sleep(seconds)
    finally:
        disk.free()
    wait_for(lambda: not scene.server.is_running() or _is_accepting(scene), "PostgreSQL has recovered or ended")
    if not scene.server.is_running():
        restart(scene)


def _is_refused_room(scene: Scene) -> bool:
    if not scene.server.is_running():
        return True
    with suppress(psycopg.OperationalError), psycopg.connect(scene.bank.owner_url) as connection:
        try:
            connection.execute(FILLER)
            connection.rollback()
        except psycopg.errors.DiskFull:
            return True
    return False


def _is_accepting(scene: Scene) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(scene.bank.owner_url):
        return True
    return False
