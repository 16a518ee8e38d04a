"""`pgteller serve`: the HTTP service, and the embedded PostgreSQL with it, kept running."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any, NoReturn

import click
import psycopg

from service.announcement import announcement
from service.config import Settings
from service.embedded import DirectoryInUseError, EmbeddedPostgresError
from service.http_service import (
    WORKING_DIRECTORY,
    HttpService,
    HttpServiceError,
    base_url,
    claim_port,
    gunicorn_command,
)
from service.local import LocalBank
from service.owner import installation_fault, one_line, without_password

POLL_SECONDS = 0.1
RESTARTS_MAX = 5
STEADY_SECONDS = 60.0
"""After this long without trouble, earlier restarts are forgiven."""


# ---- with DATABASE_URL -------------------------------------------------------------------------------------


def serve_configured(settings: Settings, database_url: str) -> NoReturn:
    """Check the database, then become gunicorn, so that whoever supervises us supervises it.

    Raises HttpServiceError when the database cannot be reached or is of another version. Migrates nothing.
    """
    settings = claim_port(replace(settings, database_owner_url=None, app_password=None))
    shown = without_password(database_url)
    try:
        fault = installation_fault(database_url)
    except psycopg.Error as error:
        raise HttpServiceError(f"cannot use DATABASE_URL, {shown}: {one_line(error)}") from None
    if fault is not None:
        raise HttpServiceError(f"{shown} is not ready: {fault}. Run `pgteller migrate`, then this again")
    click.echo(f"pgteller serves {shown} at {base_url(settings)}")
    sys.stdout.flush()
    os.chdir(WORKING_DIRECTORY)
    command = gunicorn_command()
    os.execve(command[0], command, settings.to_environment())  # noqa: S606


# ---- with the embedded PostgreSQL --------------------------------------------------------------------------


def serve_local(settings: Settings) -> None:
    """Run the local bank and the service until Ctrl-C or SIGTERM; then stop the service, PostgreSQL last.

    Either is started again when it ends unexpectedly. Raises HttpServiceError or EmbeddedPostgresError when
    that, or the first start, fails.
    """
    _on_stop_signals(_interrupt)
    bank = LocalBank(settings)
    service: HttpService | None = None
    try:
        key = _start_bank(bank)
        service = HttpService(replace(claim_port(settings), database_url=bank.service_url))
        service.start()
        service.await_ready()
        click.echo(announcement(bank, service.url, key))
        _supervise(bank, service)
    except KeyboardInterrupt:
        click.echo("\nStopping")
    finally:
        _on_stop_signals(lambda _signum, _frame: None if service is None else service.hurry())
        if service is not None:
            service.stop()
        bank.server.stop()


def _start_bank(bank: LocalBank) -> str:
    """Start PostgreSQL, migrate and return the development key."""
    click.echo(f"Starting PostgreSQL in {bank.server.directory}")
    try:
        bank.server.start()
    except DirectoryInUseError as error:
        raise HttpServiceError(
            f"{bank.home} is in use by process {error.owner_pid}, probably another `pgteller serve`. "
            "Stop that, or set PGTELLER_HOME to another folder"
        ) from None
    for migration_id in bank.install():
        click.echo(f"Migrated: {migration_id}")
    return bank.prepare_service()


def _supervise(bank: LocalBank, service: HttpService) -> NoReturn:
    postgresql_restarts, service_restarts = _Restarts("PostgreSQL"), _Restarts("The HTTP service")
    while True:
        time.sleep(POLL_SECONDS)
        if not bank.server.is_running():
            postgresql_restarts.wait(f"see {bank.server.log_file}")
            try:
                bank.server.start()
            except EmbeddedPostgresError as error:
                click.echo(str(error), err=True)
        if not service.is_running():
            service_restarts.wait("its messages above say why")
            service.stop()  # the workers that it left behind
            service.start()


class _Restarts:
    """How often something was started again: at once, then after 1, 2, 4 … seconds, then no more."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0
        self._last_at = 0.0

    def wait(self, where_to_look: str) -> None:
        """Say so and wait until the next start is due; raises HttpServiceError when it is one too many."""
        if time.monotonic() - self._last_at > STEADY_SECONDS:
            self._count = 0
        if self._count == RESTARTS_MAX:
            raise HttpServiceError(f"{self._what} ended {self._count + 1} times in a row; {where_to_look}")
        click.echo(f"{self._what} ended unexpectedly; starting it again", err=True)
        if self._count:
            time.sleep(2 ** (self._count - 1))
        self._count += 1
        self._last_at = time.monotonic()


def _interrupt(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _on_stop_signals(handler: Callable[[int, FrameType | None], Any]) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(signum, handler)
