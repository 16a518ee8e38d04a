"""`pgteller serve`: the HTTP service, and the embedded PostgreSQL with it, kept running."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import psycopg

from service.announcement import announcement
from service.config import SettingError, Settings
from service.database_url import shown
from service.embedded import DirectoryInUseError, EmbeddedPostgresError
from service.http_service import (
    WORKING_DIRECTORY,
    HttpService,
    HttpServiceError,
    base_url,
    claim_port,
    gunicorn_command,
    passed_address,
)
from service.installation import NOT_INSTALLED
from service.local import LocalBank
from service.owner import check_login, installed_version, one_line
from service.terminal import say

POLL_SECONDS = 0.1
PAUSE_SECONDS_MAX = 15.0
"""Between two attempts to start what has ended: a disk that was full may have room again."""
RECOVERY_SECONDS_MAX = 3600.0
"""A start that is given up begins with its recovery anew, and would never come to the end of a long one."""
STEADY_SECONDS = 60.0
"""After this long without trouble, earlier restarts are forgiven."""


# ---- with DATABASE_URL -------------------------------------------------------------------------------------


def serve_configured(settings: Settings, database_url: str) -> NoReturn:
    """Check the database, then become gunicorn, so that whoever supervises us supervises it.

    Raises HttpServiceError when the database cannot be reached, or this version does not work on it. Migrates nothing.
    """
    address = passed_address() or base_url(settings := claim_port(settings))
    place = shown(database_url)
    try:
        installed = installed_version(database_url, settings.database_pooler)
        if installed is not None:
            check_login(database_url, settings.database_pooler)
    except psycopg.Error as error:
        raise HttpServiceError(f"cannot use DATABASE_URL, {place}: {one_line(error)}") from None
    fault = NOT_INSTALLED if installed is None else installed.fault
    if fault is not None:
        raise HttpServiceError(f"{place} is not ready: {fault}, then run this again")
    if installed is not None and installed.is_newer:
        say(f"A newer version is installed in the database, {installed.release}; this one works on it", err=True)
    say(f"pgteller serves {place} at {address}")
    os.chdir(WORKING_DIRECTORY)
    command = gunicorn_command()
    os.execve(command[0], command, settings.to_environment())  # noqa: S606


# ---- with the embedded PostgreSQL --------------------------------------------------------------------------


def serve_local(settings: Settings) -> None:
    """Run the local bank and the service until Ctrl-C or SIGTERM; then stop the service, PostgreSQL last.

    Raises SettingError, HttpServiceError, LocalBankError or EmbeddedPostgresError when the first start fails. From then
    on either is started again whenever it has ended, however often that fails.
    """
    if settings.database_owner_url is not None:
        raise SettingError(
            "DATABASE_OWNER_URL is set and DATABASE_URL is not: set both to serve that database, or neither to serve "
            f"the bank of this machine, in {settings.home}"
        )
    _on_stop_signals(_interrupt)
    bank = LocalBank(settings)
    service: HttpService | None = None
    try:
        key = _start_bank(bank)
        service = HttpService(replace(claim_port(settings), database_url=bank.service_url))
        service.start()
        service.await_ready()
        say(announcement(bank, service.url, key))
        _supervise(bank, service)
    except KeyboardInterrupt:
        say("\nStopping")
    finally:
        _on_stop_signals(lambda _signum, _frame: None if service is None else service.hurry())
        if service is not None:
            service.stop()
        bank.server.stop()


def _start_bank(bank: LocalBank) -> str:
    """Start PostgreSQL, migrate and return the development key."""
    say(f"Starting PostgreSQL in {bank.server.directory}")
    try:
        bank.start()
    except DirectoryInUseError as error:
        raise HttpServiceError(
            f"{bank.home} is in use by process {error.owner_pid}, probably another `pgteller serve`. "
            "Stop that, or set PGTELLER_HOME to another folder"
        ) from None
    for migration_id in bank.install():
        say(f"Migrated: {migration_id}")
    return bank.prepare_service()


def _supervise(bank: LocalBank, service: HttpService) -> NoReturn:
    postgresql, http = _Restarts("PostgreSQL", bank.server.last_complaint), _Restarts("The HTTP service")
    while True:
        time.sleep(POLL_SECONDS)
        if not bank.server.is_running():
            postgresql.attempt(partial(bank.server.start, RECOVERY_SECONDS_MAX))
        if not service.is_running():
            http.attempt(service.restart)


class _Restarts:
    """Starts something again that has ended: at once, then after 1, 2, 4 … PAUSE_SECONDS_MAX seconds, for ever."""

    def __init__(self, what: str, complaint: Callable[[], str] = lambda: "its messages above say why") -> None:
        self._what = what
        self._complaint = complaint
        self._count = 0
        self._started_at = 0.0
        self._due_at: float | None = None
        self._failure: str | None = None

    def attempt(self, start: Callable[[], None]) -> None:
        """Start it if that is due. Says once for each attempt why it is needed, and when it will be."""
        if self._due_at is None:
            if time.monotonic() - self._started_at > STEADY_SECONDS:
                self._count = 0
            pause_seconds = min(2.0 ** (self._count - 1), PAUSE_SECONDS_MAX) if self._count else 0
            when = f" in {pause_seconds:g} s" if pause_seconds else ""
            what = self._failure or f"{self._what} ended unexpectedly"
            say(f"{what}; starting it again{when}: {self._complaint()}", err=True)
            self._due_at = time.monotonic() + pause_seconds
        if time.monotonic() < self._due_at:
            return
        self._count = min(self._count + 1, 10)  # more makes no difference to the pause
        try:
            start()
            self._failure = None
        except (EmbeddedPostgresError, OSError) as error:
            self._failure = str(error).partition("; the end of ")[0]  # the complaint follows
        self._started_at, self._due_at = time.monotonic(), None


def _interrupt(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _on_stop_signals(handler: Callable[[int, FrameType | None], Any]) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(signum, handler)
