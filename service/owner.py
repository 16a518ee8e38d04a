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

from service.installation import NOT_INSTALLED, Installed
from service.session import session_options
from service.watch import Watch

ANSWER_SECONDS_MAX = 30
"""How long the server may take over a call that is quick, waits for locks included."""
_SILENCE_SECONDS = 5  # that much later we end what the server has not ended

OwnerConnection = psycopg.Connection[dict[str, Any]]

# The schema, the role or the function is not there: a database that was never migrated, or long ago.
_NOT_INSTALLED = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.UndefinedFunction,
)


@contextmanager
def connect(
    database_url: str, role: str = "bank_owner", *, answer_seconds_max: int | None = None
) -> Iterator[OwnerConnection]:
    """Connect, every statement a transaction of its own, with the rights of `role`.

    answer_seconds_max: how long each statement may take, and all of them little more; None: as long as it takes,
    while the server is heard of.
    Raises psycopg.Error, also when the login may not take the role.
    """
    limit = {} if answer_seconds_max is None else {"statement_timeout": f"{answer_seconds_max}s"}
    seconds_max = None if answer_seconds_max is None else answer_seconds_max + _SILENCE_SECONDS
    with (
        Watch(database_url, seconds_max) as watch,
        watch.connect(row_factory=dict_row, options=session_options(database_url, **limit)) as connection,
    ):
        if connection.info.user != role:
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        yield connection


def call(connection: OwnerConnection, function: str, **arguments: object) -> list[dict[str, Any]]:
    """Return the rows of bank.FUNCTION, called with arguments by name."""
    query = sql.SQL("select * from bank.{}({})").format(
        sql.Identifier(function),
        sql.SQL(", ").join(sql.SQL("{} => %s").format(sql.Identifier(name)) for name in arguments),
    )
    return connection.execute(query, list(arguments.values())).fetchall()


def clock_of(connection: OwnerConnection) -> datetime:
    """Return what time it is to the server."""
    [row] = connection.execute("select clock_timestamp() as at").fetchall()
    at: datetime = row["at"]
    return at


def rebuild_index(connection: OwnerConnection, index: str) -> None:
    """Build an index of schema bank anew, while everybody reads and writes its table."""
    connection.execute(sql.SQL("reindex index concurrently bank.{}").format(sql.Identifier(index)))


def installed_version(database_url: str) -> Installed | None:
    """Return what is installed in the database, None when nothing is.

    Raises psycopg.Error when the database cannot be reached.
    """
    try:
        with connect(database_url, "bank_app", answer_seconds_max=ANSWER_SECONDS_MAX) as connection:
            rows = call(connection, "health")
    except _NOT_INSTALLED:
        return None
    return Installed.of(rows[0]) if rows else None


def installation_fault(database_url: str) -> str | None:
    """Return why this version does not work on the database, and what to do; None when it does.

    Raises psycopg.Error when the database cannot be reached.
    """
    installed = installed_version(database_url)
    return NOT_INSTALLED if installed is None else installed.fault


def one_line(error: psycopg.Error) -> str:
    """Return what went wrong as one line, without the position and context that psycopg adds."""
    message = error.diag.message_primary or str(error)
    return " ".join([*message.split(), *(f"({note})" for note in getattr(error, "__notes__", ()))])
