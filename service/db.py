"""The database: the pool, and call(), the one place where SQL is issued and retried."""

import asyncio
import random
from functools import cache
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from service.config import Settings
from service.errors import Problem
from service.session import session_options

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]

_ATTEMPTS_MAX = 4
_BACKOFF_SECONDS = 0.02


def make_pool(settings: Settings) -> Pool:
    """Return the pool of one worker, closed; it is opened in the worker, never in the master."""
    return AsyncConnectionPool(
        settings.database_url or "",
        connection_class=AsyncConnection[DictRow],
        kwargs={
            "autocommit": True,
            "row_factory": dict_row,
            "prepare_threshold": 0,
            "options": session_options(
                settings.database_url or "", timezone="UTC", statement_timeout=f"{settings.statement_timeout_seconds}s"
            ),
            # A text that the database's encoding has not is an error of its item then, not one of the whole call.
            "client_encoding": "UTF8",
            "application_name": "pgteller",
        },
        configure=_configure,
        min_size=1,
        max_size=settings.pool_connections_max,
        timeout=settings.pool_timeout_seconds,
        # The pool doubles its pause after each failure to connect. Giving up ends that, and the next request makes a
        # new beginning: an outage is over within seconds of its end, however long it was.
        reconnect_timeout=settings.pool_timeout_seconds,
        open=False,
    )


async def _configure(connection: AsyncConnection[Any]) -> None:
    """Give up every right but the application's, and fix the types that cross the boundary."""
    await connection.execute("set role bank_app")
    # One type for every integer, so that small and large ids share a prepared statement.
    connection.adapters.register_dumper(int, Int8Dumper)
    # Fractions are numeric. As text they leave as PostgreSQL writes them; str(Decimal) may have an exponent.
    connection.adapters.register_loader("numeric", TextLoader)
    # JSON passes through as it is: decoding it would make floats of its numbers.
    set_json_loads(msgspec.Raw, connection)


async def call(
    pool: Pool, function: str, *, repeatable: bool = True, dry_run: bool = False, **arguments: Any
) -> list[DictRow]:
    """Call a function of schema bank by named arguments and return its rows.

    repeatable: the call may be sent again when the connection broke and its outcome is not known: a read, or a
    posting with an idempotency key. A serialization failure or a deadlock left nothing behind and is always retried.
    dry_run: take back what the function did, a posting, and return what it would have returned.
    Raises psycopg.Error; Problem database_unavailable when nothing was sent.
    """
    statement = _statement(function, tuple(arguments))
    parameters = [_array(value) if isinstance(value, list) else value for value in arguments.values()]
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        try:
            async with pool.connection() as connection:
                if dry_run:
                    return await _dry_run(connection, statement, parameters)
                cursor = await connection.execute(statement, parameters)
                return await cursor.fetchall()
        except PoolTimeout:
            # An earlier attempt may have been posted, so that only the first one knows that it was not.
            raise Problem("database_unavailable" if attempt == 1 else "outcome_unknown") from None
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
            if attempt == _ATTEMPTS_MAX:
                raise
            await asyncio.sleep(random.uniform(0, _BACKOFF_SECONDS * attempt))  # noqa: S311 - not a secret
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            answered = error.sqlstate is not None and not error.sqlstate.startswith(("08", "57P"))
            if answered or not repeatable or attempt == _ATTEMPTS_MAX:
                raise
    raise AssertionError("unreachable")


async def _dry_run(connection: AsyncConnection[DictRow], statement: bytes, parameters: list[Any]) -> list[DictRow]:
    """Post and roll back. It is all sent at once, so that no lock waits for the network."""
    async with connection.pipeline(), connection.transaction(force_rollback=True):
        cursor = await connection.execute(statement, parameters)
    postings = await cursor.fetchall()
    for posting in postings:
        if not posting["replayed"]:  # else it is the transaction that was recorded then
            posting["transaction_id"] = None
            if posting["transaction_type"] == "cross_ledger":
                posting["original_transaction_id"] = None  # the other ledger's side of it
    return postings


@cache
def _statement(function: str, names: tuple[str, ...]) -> bytes:
    """select * from bank.function(name => %s, ...)."""
    statement = sql.SQL("select * from {}({})").format(
        sql.Identifier("bank", function),
        sql.SQL(", ").join([sql.SQL("{} => %s").format(sql.Identifier(name)) for name in names]),
    )
    return statement.as_bytes()


def _array(values: list[Any]) -> str:
    """Return whole numbers, texts and nulls as PostgreSQL writes an array: psycopg takes ten times as long for it."""
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: int | str | None) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return "null" if value is None else str(value)
