"""How the commands call the database: one connection, one role, plain calls of functions.

The service has its own way, service/db.py, with a pool and retries.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from service.installation import Installed
from service.poolers import ExcessRightsError, meaning
from service.rights import excess_rights
from service.session import session_options
from service.watch import Connection, Watch

ANSWER_SECONDS_MAX = 30
"""How long the server may take over a call that is quick, waits for locks included."""
_SILENCE_SECONDS = 5  # that much later we end what the server has not ended

OwnerConnection = Connection

# The schema, the role or the function is not there: a database that was never migrated, or long ago.
_NOT_INSTALLED = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.UndefinedFunction,
)


@contextmanager
def connect(
    database_url: str, role: str = "bank_owner", *, answer_seconds_max: int | None = None, pooler: str = "auto"
) -> Iterator[OwnerConnection]:
    """Connect, every statement a transaction of its own, with the rights of `role`.

    As bank_app it may be through a pooler, and then only call() knows the role; as bank_owner it is to the server.

    answer_seconds_max: how long each statement may take, and all of them little more; None: as long as it takes,
    while the server is heard of. pooler: as the setting DATABASE_POOLER has it.
    Raises psycopg.Error, also when the login may not take the role.
    """
    # Said even when there is none: a login has timeouts of its own, as that of the service has.
    limit = {"statement_timeout": "0" if answer_seconds_max is None else f"{answer_seconds_max}s"}
    seconds_max = None if answer_seconds_max is None else answer_seconds_max + _SILENCE_SECONDS
    with Watch(database_url, seconds_max, pooler=pooler) as watch:
        if role == "bank_app":
            try:
                connection = watch.connect_anyhow(role, limit, row_factory=dict_row)
            except psycopg.errors.InsufficientPrivilege as error:
                error.add_note(
                    "the login is no member of bank_app: `SERVICE_PASSWORD=… pgteller migrate` mends that of the "
                    "service, `pgteller logins create NAME` those that it made"
                )
                raise
            with connection:
                yield connection
            return
        with watch.connect(row_factory=dict_row, options=session_options(database_url, **limit)) as connection:
            if connection.info.user != role:
                connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
            yield connection


def call(connection: OwnerConnection, function: str, **arguments: object) -> list[dict[str, Any]]:
    """Return the rows of bank.FUNCTION, called with arguments by name."""
    query = sql.SQL("select * from bank.{}({})").format(
        sql.Identifier(function),
        sql.SQL(", ").join(sql.SQL("{} => %s").format(sql.Identifier(name)) for name in arguments),
    )
    with connection.begun():
        return connection.execute(query, list(arguments.values())).fetchall()


def clock_of(connection: OwnerConnection) -> datetime:
    """Return what time it is to the server."""
    [row] = connection.execute("select clock_timestamp() as at").fetchall()
    at: datetime = row["at"]
    return at


def rebuild_index(connection: OwnerConnection, index: str) -> None:
    """Build an index of schema bank anew, while everybody reads and writes its table."""
    connection.execute(sql.SQL("reindex index concurrently bank.{}").format(sql.Identifier(index)))


def check_login(database_url: str, pooler: str = "auto") -> None:
    """Raise ExcessRightsError where a pooler is between and the login may do more than bank_app; else psycopg.Error."""
    with connect(database_url, "bank_app", answer_seconds_max=ANSWER_SECONDS_MAX, pooler=pooler) as connection:
        if connection.local_settings is not None and (excess := excess_rights(connection)):
            raise ExcessRightsError(connection.info.user, excess)


def server_and_rights(database_url: str) -> tuple[int, list[str]]:
    """Return the version of PostgreSQL, and what the login may do that bank_app may not, whatever is installed."""
    with (
        Watch(database_url, ANSWER_SECONDS_MAX + _SILENCE_SECONDS) as watch,
        watch.connect_as_login() as connection,
    ):
        return connection.info.server_version, excess_rights(connection)


def installed_version(database_url: str, pooler: str = "auto") -> Installed | None:
    """Return what is installed in the database, None when nothing is.

    Raises psycopg.Error when the database cannot be reached.
    """
    try:
        with connect(database_url, "bank_app", answer_seconds_max=ANSWER_SECONDS_MAX, pooler=pooler) as connection:
            rows = call(connection, "health")
    except _NOT_INSTALLED:
        return None
    return Installed.of(rows[0]) if rows else None


def one_line(error: psycopg.Error) -> str:
    """Return what went wrong as one line, without the position and context that psycopg adds."""
    message = error.diag.message_primary or str(error)
    notes = [*getattr(error, "__notes__", ()), *filter(None, [meaning(error)])]
    return " ".join([*message.split(), *(f"({note})" for note in notes)])
