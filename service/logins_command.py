"""`pgteller logins`: roles of their own for SQL callers."""

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click
import psycopg

from service import logins
from service.config import Settings
from service.local import database_url
from service.owner import ANSWER_SECONDS_MAX
from service.session import session_options
from service.watch import Watch

_SECONDS_MAX = ANSWER_SECONDS_MAX + 5


@click.group("logins")
def logins_group() -> None:
    """Create, list, rotate and drop the logins of SQL callers."""


_password_option = click.option(
    "--password-stdin",
    is_flag=True,
    help="Read the password from standard input; nothing secret is printed then.  [default: a random one]",
)


def _name(_ctx: click.Context, _parameter: click.Parameter, name: str) -> str:
    fault = logins.check_name(name)
    if fault is not None:
        raise click.BadParameter(fault)
    return name


_name_argument = click.argument("name", callback=_name)


@logins_group.command("create", epilog="Example: pgteller logins create accounting --read-only")
@_name_argument
@click.option("--read-only", is_flag=True, help="It may read, and call nothing that writes.")
@_password_option
@click.pass_obj
def logins_create(settings: Settings, *, name: str, read_only: bool, password_stdin: bool) -> None:
    """Make a login for NAME and print its URL, with the password: this once.

    A role of PostgreSQL's that may do what bank_app may (--read-only: bank_reader), and nothing more; with timeouts,
    READ COMMITTED and UTC as its own settings, which the login may change. It may call for every ledger. Roles are the
    server's: it works in each database that has a bank.
    """
    password = _given_password() if password_stdin else _new_password()
    with _owner(settings) as (url, connection), _undone_unless_printed(connection):
        logins.create(connection, logins.Login(name, password, read_only=read_only))
        click.echo(f"{name} may {'read' if read_only else 'call and read'}.", err=True)
        click.echo(logins.url_of(connection, url, name, None if password_stdin else password))


@logins_group.command("list", epilog="Example: pgteller logins list")
@click.pass_obj
def logins_list(settings: Settings) -> None:
    """List every login that may use the bank, whoever made it, and what it may do beyond that."""
    with _owner(settings) as (_, connection):
        states = logins.states(connection)
    table = [("LOGIN", "MAY", "SINCE", "SESSIONS", "WARNINGS")]
    table += [
        (state.name, state.may, state.since or "-", str(state.sessions), "; ".join(state.warnings)) for state in states
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@logins_group.command("rotate", epilog="Example: pgteller logins rotate accounting")
@_name_argument
@_password_option
@click.pass_obj
def logins_rotate(settings: Settings, *, name: str, password_stdin: bool) -> None:
    """Give the login NAME a new password and print its URL. Sessions that are open go on."""
    password = _given_password() if password_stdin else _new_password()
    with _owner(settings) as (url, connection), _undone_unless_printed(connection):
        logins.rotate(connection, name, password)
        click.echo(f"The password of {name} is new; the one before is refused from now on.", err=True)
        click.echo(logins.url_of(connection, url, name, None if password_stdin else password))


@logins_group.command("drop", epilog="Example: pgteller logins drop accounting")
@_name_argument
@click.option("--force", is_flag=True, help="Also the login of the service, which cannot go on without it.")
@click.pass_obj
def logins_drop(settings: Settings, *, name: str, force: bool) -> None:
    """Drop the login NAME: its sessions are ended, and nobody logs in by it any more.

    What was granted to it in this database is taken back. A transaction that is open in one of its sessions is rolled
    back. Where sessions may not be ended, their processes are named: they may go on until they end.
    """
    if name == logins.SERVICE_LOGIN and not force:
        raise click.ClickException(
            f"{name} is the login of the service of every bank on this server: without it `pgteller serve` stops "
            "answering. --force drops it all the same; `SERVICE_PASSWORD=… pgteller migrate` gives it a new password"
        )
    with _owner(settings) as (_, connection):
        sessions, left = logins.drop(connection, name)
    ended = sessions - len(left)
    click.echo(f"{name} is dropped" + (f", and {ended} of its sessions ended." if ended > 0 else "."))
    if left:
        click.echo(
            f"{len(left)} of its sessions are still open, and may go on calling until they end: processes "
            f"{', '.join(map(str, left))}; a superuser ends one by select pg_terminate_backend(PROCESS)",
            err=True,
        )


@contextmanager
def _owner(settings: Settings) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """Connect as migrations do, and as the login itself: bank_owner makes no roles."""
    with (
        database_url(settings, as_owner=True) as url,
        Watch(url, _SECONDS_MAX) as watch,
        watch.connect(options=session_options(url, statement_timeout=f"{ANSWER_SECONDS_MAX}s")) as connection,
    ):
        if connection.execute("select to_regrole('bank_app')").fetchone() == (None,):
            raise click.ClickException("there is no bank on this server yet: run `pgteller migrate`")
        yield url, connection


@contextmanager
def _undone_unless_printed(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Commit only what has been printed: a password that nobody saw is not valid."""
    if sys.stdout is None:
        raise click.ClickException("stdout is closed: nobody would see the URL")
    try:
        with connection.transaction():
            yield
    except OSError as error:
        with suppress(OSError):  # what is left of the URL is not tried again when Python ends
            sys.stdout.close()
        raise click.ClickException(f"the URL could not be printed, and nothing is changed: {error}") from None


def _new_password() -> str:
    return secrets.token_urlsafe(24)


def _given_password() -> str:
    if sys.stdin is None:
        raise click.ClickException("stdin is closed: there is no password to read")
    password = sys.stdin.readline().rstrip("\r\n")
    if not password or "\0" in password:
        raise click.UsageError("the password on standard input is empty")
    return password
