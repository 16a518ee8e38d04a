"""The command `pgteller`.

Exit codes: 0 all is well; 1 the operation failed, or found what should not be (violations, rows that failed);
2 the command line or a setting is not valid. Errors are one line on stderr.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click
import psycopg

from service import keys
from service.adopt import adopt
from service.config import DECLARED, SettingError, Settings
from service.correct_times import clock_fault, correct_times
from service.database_url import shown, without
from service.embedded import EmbeddedPostgresError
from service.http_service import HttpServiceError, base_url, is_ready
from service.import_command import Target, import_file
from service.import_file import ImportFile, ImportFileError
from service.importer import CONNECTIONS_DEFAULT, ImportOptions, ImportStoppedError
from service.installation import NOT_INSTALLED, last_migration_id
from service.local import LocalBank, LocalBankError, database_url, owner_url
from service.logins import service_login
from service.logins_command import logins_group
from service.migrate import migrate
from service.migration_lock import MigrationError, installation_lock
from service.owner import ANSWER_SECONDS_MAX, call, connect, installed_version, one_line, server_and_rights
from service.serve import serve_configured, serve_local
from service.terminal import say
from service.verify_command import verify_in_slices, verify_whole
from service.watch import Watch

_EXIT_CODES = """
\b
Exit codes: 0 all is well; 1 it failed, or found what should not be;
2 the command line or a setting is not valid.
"""


class _Failure(click.ClickException):
    """An error that a user can do something about, without the secrets of the settings."""

    def __init__(self, ctx: click.Context, message: str) -> None:
        super().__init__(message if ctx.obj is None else without(message, ctx.obj.secrets()))


class _SettingFailure(_Failure):
    exit_code = 2


class _Commands(click.Group):
    """Turns the errors that a user can do something about into one line and exit code 1, or 2 for a setting."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _fill_standard_streams()
        if sys.stderr is None:
            sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as we live
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except psycopg.Error as error:
            raise _Failure(ctx, one_line(error)) from None
        except SettingError as error:
            raise _SettingFailure(ctx, str(error)) from None
        except (
            EmbeddedPostgresError,
            HttpServiceError,
            ImportFileError,
            ImportStoppedError,
            LocalBankError,
            MigrationError,
            OSError,
        ) as error:
            raise _Failure(ctx, str(error)) from None


def _fill_standard_streams() -> None:
    """Open nothing where a standard stream is closed, as by >&-.

    The next file or connection that is opened would be in its place, and get what is said to it: here, or in what
    serve becomes.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free


class _Serve(click.Command):
    """Lists in its help the settings that it reads."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("Settings, from the environment"):
            formatter.write_dl(
                [
                    (
                        setting.variable,
                        f"{setting.meaning}. Allowed: {setting.kind.allowed}. Default: {setting.default}",
                    )
                    for setting in DECLARED.values()
                    if "serve" in setting.used_by
                ]
            )


_ID = click.IntRange(1, 2**63 - 1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXIT_CODES)
@click.version_option(package_name="pgteller")
@click.pass_context
def main(ctx: click.Context) -> None:
    """A bank's ledger inside PostgreSQL.

    Without DATABASE_URL every command works on the bank of this machine, which lives in PGTELLER_HOME
    (~/.local/share/pgteller) and has a PostgreSQL of its own: whether `pgteller serve` runs or not.
    """
    ctx.obj = Settings.from_environment()
    sys.excepthook = partial(_show_traceback, ctx.obj.secrets())


def _show_traceback(secrets: set[str], *raised: Any) -> None:
    with suppress(OSError):
        click.echo(without("".join(traceback.format_exception(*raised)), secrets), nl=False, err=True)


@main.command(cls=_Serve, epilog="Example: PORT=9000 pgteller serve")
@click.pass_obj
def serve(settings: Settings) -> None:
    """Serve the HTTP API at HOST and PORT until Ctrl-C.

    Without DATABASE_URL it also runs PostgreSQL, migrates, makes a development API key, and prints commands
    to try. With DATABASE_URL the database must have been migrated (`pgteller migrate`).
    """
    if settings.database_url is None:
        serve_local(settings)
    else:
        serve_configured(settings, settings.database_url)


@main.command("migrate", epilog="Example: DATABASE_OWNER_URL=postgresql://admin@db/bank pgteller migrate")
@click.option("--adopt", "adopts", is_flag=True, help="First take over a bank that was restored without its owner.")
@click.pass_obj
def migrate_command(settings: Settings, *, adopts: bool) -> None:
    """Bring the database to this version: apply pending migrations, load the functions.

    Connects to DATABASE_OWNER_URL, else DATABASE_URL: a role that may create roles, or, once the bank is
    installed, a member of bank_owner. With SERVICE_PASSWORD it also makes pgteller_service, the login of the
    service, or gives it that password. The bank may run meanwhile, and services of the version before go on
    (docs/upgrades.md). Running it again, or twice at a time, does no harm. A database of a newer version is left
    as it is.
    """
    configured = owner_url(settings)
    if configured is not None:
        if adopts:
            _adopt(configured)
        password = settings.service_password
        service = None if password is None else service_login(settings, password)
        applied = migrate(configured, settings.app_password, service_login=service, pooler=settings.database_pooler)
    else:
        bank = LocalBank(settings)
        with bank.running(create=True):
            if adopts:
                _adopt(bank.owner_url)
            applied = bank.install()
    for migration_id in applied:
        say(f"applied {migration_id}")
    say(f"The database has what this version needs, {last_migration_id()} and its functions.")
    if adopts:
        say("Now run `pgteller verify`: it tells whether all of the bank was restored.")


def _adopt(url: str) -> None:
    count = adopt(url)
    say(f"adopted {count} objects: they belong to bank_owner now" if count else "nothing to adopt")


@main.command(epilog="Example: pgteller status || pgteller migrate")
@click.pass_obj
def status(settings: Settings) -> None:
    """Show the database, what is installed in it, and whether a service answers at HOST and PORT.

    That one may serve another bank: only its own settings say which. Fails when the database cannot be reached or
    this version does not work on it; not when the service is down.
    Warns when the login of DATABASE_URL could change what is written, past the functions of the bank.
    """
    with database_url(settings, as_owner=False) as url:
        version, excess = server_and_rights(url)
        installed = installed_version(url, settings.database_pooler)
    fault = NOT_INSTALLED if installed is None else installed.fault
    if fault is not None or installed is None:
        state = fault
    elif installed.is_newest:
        state = f"current, {installed.migration_id}"
    else:
        state = f"a newer version, {installed.release} with {installed.migration_id}; this one works on it"
    click.echo(f"database    {shown(url)} (PostgreSQL {version // 10_000}.{version % 10_000})")
    click.echo(f"installed   {state}")
    click.echo(f"service     {base_url(settings)} {'is ready' if is_ready(settings) else 'does not answer'}")
    if fault is not None:
        raise click.ClickException(f"this version does not work on the database: {fault}")
    if excess and settings.database_url is not None:
        click.echo(
            f"warning     the login of DATABASE_URL can do more than call the bank: it {', '.join(excess)}. "
            "Use one of its own: see `pgteller logins --help`",
            err=True,
        )


@main.command(epilog="Example: pgteller verify --ledger 1")
@click.option("--ledger", "ledger_id", type=_ID, help="Only this ledger; every ledger when not given.")
@click.option("--from", "place", metavar="PLACE", help="Go on where an earlier run was stopped, as it said.")
@click.option("--whole", is_flag=True, help="Check everything as of one moment, in one statement of the database.")
@click.pass_obj
def verify(settings: Settings, *, ledger_id: int | None, place: str | None, whole: bool) -> None:
    """Check every invariant of the ledger; fails when one is violated.

    Each violation is a line on stdout. It reads everything, so it takes its time, but stops nobody: it goes from
    slice to slice, each as of its own moment, and can be stopped with Ctrl-C and resumed. --whole is faster, but while
    it runs nothing that was deleted or updated meanwhile is cleaned up (vacuum waits for it).
    """
    if whole and place is not None:
        raise click.UsageError("--from cannot be used with --whole")
    with (
        database_url(settings, as_owner=False) as url,
        connect(url, "bank_app", pooler=settings.database_pooler) as connection,
    ):
        try:
            if whole:
                verify_whole(connection, ledger_id=ledger_id)
            else:
                verify_in_slices(connection, ledger_id=ledger_id, place=place)
        except psycopg.Error as error:
            message, facts = error.diag.message_primary, error.diag.message_detail or "{}"
            if message == "ledger_not_found":
                raise click.ClickException(f"there is no ledger {json.loads(facts)['ledger_id']}") from None
            if message == "invalid_argument":
                in_another = json.loads(facts)["reason"] == "is in another ledger"
                why = "is in another ledger" if in_another else "is not a place printed by `pgteller verify`"
                raise click.BadParameter(f"{place} {why}", param_hint="--from") from None
            raise


@main.command("correct-times", epilog="Example: pgteller correct-times --dry-run")
@click.option("--dry-run", is_flag=True, help="Say how much there is to correct, and change nothing.")
@click.pass_obj
def correct_times_command(settings: Settings, *, dry_run: bool) -> None:
    """Mend what a clock that leapt ahead left behind: times from the future.

    Set the clock right first. Transactions and entries get a time between those around them; amounts, balances
    and versions stay. The bank may run meanwhile, and running it again does no harm. Connects as migrate does.
    """
    with database_url(settings, as_owner=True) as url, connect(url, pooler=settings.database_pooler) as owner:
        fault = clock_fault(owner, datetime.now(UTC))
        if fault is not None:
            raise click.ClickException(fault)
        with nullcontext() if dry_run else _alone(url):  # two that rebuild the index would wait for each other
            corrected = correct_times(owner, dry_run=dry_run)
    if not corrected:
        click.echo("No times from the future.")
        return
    click.echo("To be corrected:" if dry_run else "Corrected:")
    for name in ("accounts", "entries", "transactions"):
        click.echo(f"  {name:12} {getattr(corrected, name):,}")


@contextmanager
def _alone(database_url: str) -> Iterator[None]:
    with Watch(database_url) as watch, installation_lock(watch):
        yield


# ---- import ------------------------------------------------------------------------------------------------

_MINOR_UNITS = click.IntRange(min=0, max=9_007_199_254_740_991)


@main.command("import", epilog="Example: pgteller import transactions.csv --currency CZK --key-column source_trans_id")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--url", help="The service to post to.  [default: http://127.0.0.1:PORT]")
@click.option("--key", help="The API key; others on this machine see it in `ps`.  [default: that of --key-file]")
@click.option(
    "--key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The file that holds the API key.  [default: PGTELLER_HOME/development.key]",
)
@click.option("--currency", default="EUR", show_default=True, help="Of rows without a currency column.")
@click.option("--key-column", help="Unique per row.  [default: idempotency_key, else source_trans_id]")
@click.option(
    "--key-prefix",
    default="import:",
    show_default=True,
    help="Before each key, so that it cannot meet those of others. Keep it from run to run.",
)
@click.option(
    "--overdraft-limit-minor",
    type=_MINOR_UNITS,
    help="Of accounts opened.  [default: what the expected balances need, else 0]",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 256),
    default=CONNECTIONS_DEFAULT,
    show_default=True,
    help="How many rows of different accounts to post at a time.",
)
@click.option("--stop-on-error", is_flag=True, help="Stop at the first row that fails.")
@click.pass_obj
def import_command(
    settings: Settings,
    *,
    file: Path,
    url: str | None,
    key: str | None,
    key_file: Path | None,
    currency: str,
    key_column: str | None,
    key_prefix: str,
    overdraft_limit_minor: int | None,
    connections: int,
    stop_on_error: bool,
) -> None:
    """Post the rows of a CSV file; a second run posts nothing twice.

    The first line of FILE names its columns, in any order; others are ignored:

    \b
    account_id           your name of the account, its external_id; opened if missing
    transaction_type     credit or debit
    amount_minor         whole number of minor units, more than zero
    idempotency_key      or source_trans_id, or --key-column: unique per row
    balance_after_minor  optional: the balance to expect; a difference is reported
    currency             optional: such as EUR
    holder_name          optional: of an account that is opened
    description          optional

    Rows of an account are posted in order, accounts side by side. A bad row is reported with its line number,
    and the rest goes on. Without --url, and when nothing answers there, the service runs for the duration.
    """
    if url is not None and not url.startswith(("http://", "https://")):
        raise click.BadParameter("does not begin with http:// or https://", param_hint="--url")
    if url is not None and "@" in url:
        raise click.BadParameter("has an @ in it: nothing but an address belongs there", param_hint="--url")
    rows = ImportFile(file, key_column=key_column, key_prefix=key_prefix, currency=currency)
    options = ImportOptions(
        url="",
        key="",
        connections=connections,
        overdraft_limit_minor=overdraft_limit_minor,
        stop_on_error=stop_on_error,
    )
    if not import_file(settings, rows, Target(url, key, key_file), options):
        raise click.exceptions.Exit(1)


# ---- keys --------------------------------------------------------------------------------------------------


@main.group("keys")
def keys_group() -> None:
    """Create, list and revoke API keys."""


@keys_group.command(
    "create", epilog="Example: pgteller keys create web-shop --scope accounts:read --expires-in-days 90"
)
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(keys.SCOPES),
    help="What it may do; repeat it for several.  [default: all but transactions:force and admin]",
)
@click.option("--expires-in-days", type=click.IntRange(1, 36_500), help="Never when not given.")
@click.option("--ledger", "ledger_id", type=_ID, default=1, show_default=True)
@click.pass_obj
def keys_create(
    settings: Settings, name: str, scopes: tuple[str, ...], expires_in_days: int | None, ledger_id: int
) -> None:
    """Create a key for NAME and print it: this once, for only its digest is kept."""
    if sys.stdout is None:
        raise click.ClickException("stdout is closed: nobody would see the key")
    key = keys.make()
    with (
        database_url(settings, as_owner=True) as url,
        connect(url, answer_seconds_max=ANSWER_SECONDS_MAX, pooler=settings.database_pooler) as owner,
    ):
        try:
            (created,) = call(
                owner,
                "create_api_key",
                name=name,
                key_digest=keys.digest(key),
                scopes=list(scopes or keys.SCOPES_BY_DEFAULT),
                expires_at=datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days else None,
                ledger_id=ledger_id,
            )
        except psycopg.errors.ForeignKeyViolation:
            raise click.ClickException(f"there is no ledger {ledger_id}") from None
        except (psycopg.errors.CheckViolation, psycopg.errors.StringDataRightTruncation):
            raise click.UsageError("NAME is blank or longer than 100 characters") from None
        try:
            click.echo(f"Key {created['api_key_id']} for {name}: {', '.join(created['scopes'])}", err=True)
            click.echo(key)
        except OSError as error:
            call(owner, "revoke_api_key", api_key_id=created["api_key_id"])
            with suppress(OSError):  # what is left of the key is not tried again when Python ends
                sys.stdout.close()
            raise click.ClickException(f"the key could not be printed, and is revoked again: {error}") from None


@keys_group.command("list", epilog="Example: pgteller keys list")
@click.pass_obj
def keys_list(settings: Settings) -> None:
    """List the keys, also expired and revoked ones, oldest first."""
    with (
        database_url(settings, as_owner=True) as url,
        connect(url, answer_seconds_max=ANSWER_SECONDS_MAX, pooler=settings.database_pooler) as owner,
    ):
        rows = call(owner, "list_api_keys")
    table = [("ID", "LEDGER", "NAME", "STATE", "CREATED", "SCOPES")]
    table += [
        (
            str(row["api_key_id"]),
            str(row["ledger_id"]),
            row["name"],
            _state(row),
            f"{row['created_at']:%Y-%m-%d}",
            " ".join(row["scopes"]),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


@keys_group.command("revoke", epilog="Example: pgteller keys revoke 2")
@click.argument("api_key_id", metavar="ID", type=_ID)
@click.pass_obj
def keys_revoke(settings: Settings, api_key_id: int) -> None:
    """End the key with this ID (see `pgteller keys list`) for good; a second time changes nothing."""
    with (
        database_url(settings, as_owner=True) as url,
        connect(url, answer_seconds_max=ANSWER_SECONDS_MAX, pooler=settings.database_pooler) as owner,
    ):
        (revoked,) = call(owner, "revoke_api_key", api_key_id=api_key_id)
    if revoked["api_key_id"] is None:
        raise click.ClickException(f"there is no key {api_key_id}: see `pgteller keys list`")
    click.echo(f"Key {api_key_id} for {revoked['name']} is revoked.")


main.add_command(logins_group)


def _state(row: dict[str, Any]) -> str:
    if row["revoked_at"] is not None:
        return f"revoked {row['revoked_at']:%Y-%m-%d}"
    if row["expires_at"] is None:
        return "valid"
    past = row["expires_at"] <= datetime.now(UTC)
    return f"{'expired' if past else 'valid until'} {row['expires_at']:%Y-%m-%d}"


if __name__ == "__main__":
    main()
