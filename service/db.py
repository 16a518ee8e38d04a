"""The database: the pool, and call() and read(), the one place where SQL is issued, retried, and given up.

Every request has one deadline, and it is kept without the server's help: a connection that passes it is cut. No call
waits long for a lock with a connection in its hands: see locked_rows.py.
"""

import asyncio
import os
import random
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import cache
from typing import Any, Self

import msgspec
import psycopg
import structlog
from psycopg import AsyncConnection, generators, sql
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import TextLoader
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from service import deadlines, poolers
from service.config import Settings
from service.errors import Problem, left_nothing_behind
from service.locked_rows import LockedRows, rows_of
from service.logs import FailureLog
from service.rights import RIGHTS, excess_of, rights_parameters
from service.session import (
    BEGIN,
    application,
    connection_defaults,
    service_settings,
    set_settings,
    set_settings_locally,
)

log = structlog.get_logger()
_faults = FailureLog(log)
_ATTEMPTS_MAX = 4
_BACKOFF_SECONDS = 0.02
_PAUSE_SECONDS = 0.2
_CONFIGURE_SECONDS_MAX = 5.0
_SILENT_POOLER = (
    "a pooler is paused, PostgreSQL does not answer behind it, or the pooler has no connection left to give: in its "
    "session mode default_pool_size must be WEB_CONCURRENCY x (POOL_CONNECTIONS_MAX + 3) or more"
)
_RENEWALS_SECONDS = 1.0
_LOOK_SECONDS_MAX = 2.0
_RESERVED_CONNECTIONS = 3
"""For calls that many requests share, for the look for locked rows, and for one call that insists."""
_PATIENT_CONNECTIONS_MAX = 2
_PATIENT_LOCK_TIMEOUT_MS = 1_000
"""Long enough for the queue of an account that is in demand. What else the call has locked is locked for as long."""
_MARGIN_SECONDS = 0.05
_KEYS = ("idempotency_key", "idempotency_keys")
_STALE = (
    psycopg.errors.FeatureNotSupported,  # a prepared statement whose columns are not what they were
    psycopg.errors.DatatypeMismatch,  # a row type has grown while the call was in a function
    psycopg.errors.CannotCoerce,
    psycopg.errors.InternalError_,  # a function was replaced by another one between its name and its call
)
"""What a call meets that was under way, or prepared, when a newer version was installed. It was rolled back."""


Name = tuple[str, Any, Any]


class Connection(AsyncConnection[DictRow]):
    """A connection that knows whether its last commit stopped waiting for the synchronous standby."""

    left_standby_behind = False
    local_settings: str | None = None
    """What sets up each transaction, as behind a pooler; None where the session is ours and has been set up."""

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> Self:
        """Connect; the log says why that is not possible, for the pool only tries again."""
        try:
            return await super().connect(*args, **kwargs)
        except psycopg.Error as error:
            _faults.add("no connection to the database", error=poolers.explained(error))
            raise


class Pool(AsyncConnectionPool[Connection]):
    """The connections of one worker, and what the calls on them share.

    Calls on their own may take all connections but a few, and neither reads nor writes all of those: what waits
    together, and the look for locked rows, always finds one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        connections_min: int = 1,
        connections_max: int | None = None,
        application_name: str = "pgteller",
    ) -> None:
        """Make it closed: it is opened in the worker, never in the master."""
        url = settings.database_url or ""
        singles_max = max(1, settings.pool_connections_max - _RESERVED_CONNECTIONS)
        self.request_timeout_seconds = settings.request_timeout_seconds
        self.singles = asyncio.Semaphore(singles_max)
        self.reads, self.writes = (asyncio.Semaphore(max(1, singles_max - 1)) for _ in range(2))
        self.insisting = asyncio.Semaphore(1)
        self.contended: Counter[Name] = Counter()
        """Keys and other names of the calls that insist: what names one of them insists from the beginning."""
        # What is sent later than this would be cut before it has given up waiting for a lock.
        self.sending_seconds = min(settings.lock_timeout_ms / 1000 + _MARGIN_SECONDS, self.request_timeout_seconds / 4)
        self.locked = LockedRows(self._locked_rows, settings.coalescer_queue_max)
        self.patient: Pool = self
        """The few connections that wait longer for a lock, for accounts that go from hand to hand."""
        if connections_max is None and settings.lock_timeout_ms:
            patient = replace(settings, lock_timeout_ms=max(settings.lock_timeout_ms, _PATIENT_LOCK_TIMEOUT_MS))
            self.patient = Pool(patient, connections_min=0, connections_max=_PATIENT_CONNECTIONS_MAX)
        self._renewed_at = float("-inf")
        self._pooler = settings.database_pooler
        self._prepares = True
        """Until a statement was lost that had been prepared."""
        self._session_settings = service_settings(
            request_timeout_seconds=settings.request_timeout_seconds, lock_timeout_ms=settings.lock_timeout_ms
        )
        super().__init__(
            url,
            connection_class=Connection,
            kwargs={
                # What is not acknowledged soon breaks the connection, and another is tried within the deadline.
                **connection_defaults(url, connect_timeout=5, tcp_user_timeout=5_000),
                "autocommit": True,
                "row_factory": dict_row,
                "prepare_threshold": 0,
                # A text that the database's encoding has not is an error of its item then, not one of the whole call.
                "client_encoding": "UTF8",
                **application(url, application_name),
            },
            configure=self._configure,
            min_size=connections_min,
            max_size=connections_max or settings.pool_connections_max,
            timeout=settings.request_timeout_seconds,
            # The pool doubles its pause after each failure to connect. Giving up ends that, and the next request makes
            # a new beginning: an outage is over within seconds of its end, however long it was.
            reconnect_timeout=min(5, settings.request_timeout_seconds),
            open=False,
        )

    async def open(self, wait: bool = False, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - as in psycopg_pool
        """Open it, and the one with patience."""
        await super().open(wait, timeout)
        if self.patient is not self:
            await self.patient.open(wait, timeout)

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - as in psycopg_pool
        """Close both."""
        if self.patient is not self:
            await self.patient.close(timeout)
        await super().close(timeout)

    def can_send(self, until: float) -> bool:
        """Return whether there is time to send, and to wait for a lock, before the deadline."""
        return time.monotonic() + self.sending_seconds < until

    def is_contended(self, function: str, arguments: dict[str, Any]) -> bool:
        """Return whether a call insists now that waits for what this one would wait for."""
        return bool(self.contended) and any(name in self.contended for name in _names(function, arguments))

    async def renew(self) -> None:
        """Replace all connections: the server that they lead to is gone, silent, or not the primary any more."""
        now = time.monotonic()
        if now - self._renewed_at > _RENEWALS_SECONDS:
            self._renewed_at = now
            await self.drain()

    async def lost_statement(self, connection: Connection) -> None:
        """Prepare nothing any more: there is a pooler that does not keep it."""
        self._prepares = False
        await connection.close()
        await self.drain()

    async def _configure(self, connection: Connection) -> None:
        """Give up every right but the application's, and fix the types that cross the boundary."""
        # One type for every integer, so that small and large ids share a prepared statement.
        connection.adapters.register_dumper(int, Int8Dumper)
        # Fractions are numeric. As text they leave as PostgreSQL writes them; str(Decimal) may have an exponent.
        connection.adapters.register_loader("numeric", TextLoader)
        # JSON passes through as it is: decoding it would make floats of its numbers.
        set_json_loads(msgspec.Raw, connection)
        connection.add_notice_handler(_notices(connection))
        until = time.monotonic() + _CONFIGURE_SECONDS_MAX
        try:
            with _cut_at(connection, until):
                await self._set_up(connection)
        except psycopg.Error as error:
            why = poolers.explained(error)
            if time.monotonic() >= until:
                why = f"a new connection was taken, and silent for {_CONFIGURE_SECONDS_MAX:g} s: {_SILENT_POOLER}"
            _faults.add("no connection to the database", error=why)
            await connection.close()  # or it would stay as it is, in a transaction
            raise

    async def _set_up(self, connection: Connection) -> None:
        """Set up the session, if it is ours alone; else note what sets up each transaction."""
        if self._pooler != "transaction":
            pid = connection.info.backend_pid if self._pooler == "auto" else None
            statement = set_settings(self._session_settings, "bank_app", backend_pid=pid)
            if (await connection.execute(statement.encode(), prepare=False)).rowcount:
                connection.prepare_threshold = 0 if self._prepares else None
                return
        connection.prepare_threshold = None
        await connection.execute("begin")  # by itself: a pooler that knows single statements alone says so here
        await connection.execute("set local search_path = pg_catalog")  # whatever somebody else has left behind
        rights = await connection.execute(RIGHTS, rights_parameters(connection.info.server_version))
        excess = excess_of(await rights.fetchall())
        if excess:
            raise poolers.ExcessRightsError(connection.info.user, excess)
        defaults = {row["name"]: row["value"] for row in await (await connection.execute(poolers.DEFAULTS)).fetchall()}
        connection.local_settings = set_settings_locally({**self._session_settings, **defaults}, "bank_app")
        keeps = self._prepares and await _keeps_prepared(connection)
        await connection.execute("rollback")
        connection.prepare_threshold = 0 if keeps else None

    async def _locked_rows(self, **arguments: Any) -> list[DictRow]:
        until = time.monotonic() + min(_LOOK_SECONDS_MAX + self.sending_seconds, self.request_timeout_seconds)
        # Rolled back, for to commit a lock would take as long as to commit a posting.
        return await send(self, "locked_rows", arguments, answer_by=until, rollback=True)


async def _keeps_prepared(connection: Connection) -> bool:
    """Return whether what is prepared is there again whatever backend serves us; ask it within a transaction.

    A pooler that takes care of that, as PgBouncer does from 1.21 on if it is told to, gives it names of its own.
    """
    if not psycopg.capabilities.has_send_close_prepared():
        return False  # psycopg would deallocate by a statement, which poolers do not see
    name = f"pgteller_{secrets.token_hex(8)}"
    query = f"select from pg_catalog.pg_prepared_statements where name = '{name}'"
    pgconn = connection.pgconn
    pgconn.send_prepare(name.encode(), query.encode())
    await _result(connection)
    pgconn.send_query_prepared(name.encode(), None)
    passed_through = (await _result(connection)).ntuples > 0
    pgconn.send_close_prepared(name.encode())
    await _result(connection)
    return not passed_through


async def _result(connection: Connection) -> PGresult:
    """Return the result of what was sent by libpq itself; psycopg would choose the name of what it prepares."""
    result: PGresult
    [result] = await connection.wait(generators.execute(connection.pgconn))
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        raise psycopg.errors.error_from_result(result)
    return result


def _notices(connection: Connection) -> Callable[[psycopg.errors.Diagnostic], None]:
    def notice(diagnostic: psycopg.errors.Diagnostic) -> None:
        # The name of the function in PostgreSQL's source: all else in the message depends on its language.
        if diagnostic.source_function == "SyncRepWaitForLSN":
            connection.left_standby_behind = True

    return notice


class _cut_at:  # noqa: N801 - used like a function
    """Cut the connection when it is still in use at the deadline; whoever waits for it then sees it broken.

    Not by cancelling whoever waits, whereupon psycopg would ask the server to stop, and wait for its answer.
    """

    def __init__(self, connection: Connection, until: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(until - time.monotonic(), _cut, connection)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _cut(connection: Connection) -> None:
    if not connection.closed:
        # The descriptor stays psycopg's own to close; closed here, its number might be another connection's at once.
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as same:
            same.shutdown(socket.SHUT_RDWR)


# ---- one call by itself ------------------------------------------------------------------------------------


async def call(pool: Pool, function: str, *, dry_run: bool = False, **arguments: Any) -> list[DictRow]:
    """Call a function of schema bank that may lock rows, by named arguments, and return its rows.

    What was asked may have been done already when the connection broke: every function here that is called so can be
    called again, a posting because of its idempotency key.
    dry_run: take back what the function did, a posting, and return what it would have returned.
    Raises psycopg.Error; Problem database_unavailable when nothing was sent or left behind, timed_out when a lock was
    not to be had, outcome_unknown.
    """
    until = deadlines.current(pool.request_timeout_seconds)
    try:
        rows = await _call(pool, function, arguments, until=until, rollback=dry_run)
    except Problem as problem:
        if dry_run:
            raise problem.of_a_read() from problem.__cause__
        if arguments.keys().isdisjoint(_KEYS):
            raise problem.of_what_has_no_key() from problem.__cause__
        raise
    return [_would_be(row) for row in rows] if dry_run else rows


async def _call(pool: Pool, function: str, arguments: dict[str, Any], *, until: float, rollback: bool) -> list[DictRow]:
    """Call, and wait without a connection where a row that it names is locked."""
    met_lock = False
    while not pool.is_contended(function, arguments):
        in_demand = pool.locked.any and await pool.locked.wait_or_look(rows_of(arguments), until)
        try:
            if in_demand and pool.patient.can_send(until):
                return await send(pool.patient, function, arguments, answer_by=until, rollback=rollback)
            async with _place(pool.writes, until), _place(pool.singles, until):
                if pool.locked.any and pool.locked.among(rows_of(arguments)) is not None:
                    continue
                if not pool.is_contended(function, arguments):
                    return await send(pool, function, arguments, answer_by=until, rollback=rollback)
        except psycopg.errors.LockNotAvailable:
            met_lock = True  # the connection goes back before anything else
        except Problem as problem:
            raise problem.after_a_lock() if met_lock else problem from None
        if not met_lock or not await pool.locked.find(rows_of(arguments)):
            break
    return await insist(pool, function, arguments, until=until, rollback=rollback)


async def read(pool: Pool, function: str, **arguments: Any) -> list[DictRow]:
    """Call a function of schema bank that only reads, by named arguments, and return its rows.

    Raises psycopg.Error; Problem database_unavailable, or timed_out when a table was locked.
    """
    until = deadlines.current(pool.request_timeout_seconds)
    try:
        try:
            async with _place(pool.reads, until), _place(pool.singles, until):
                return await send(pool, function, arguments, answer_by=until)
        except psycopg.errors.LockNotAvailable:
            return await insist(pool, function, arguments, until=until)
    except Problem as problem:
        raise problem.of_a_read() from None


async def insist(
    pool: Pool, function: str, arguments: dict[str, Any], *, until: float, rollback: bool = False
) -> list[DictRow]:
    """Call again and again until what it waits for is free, which is no row that it names: a key, or a table.

    One call of a worker at a time, with pauses: what it has locked by then is free to others for most of the time.
    """
    names = Counter(_names(function, arguments))
    pool.contended += names
    try:
        while pool.can_send(until):
            async with _place(pool.insisting, until):
                try:
                    return await send(pool, function, arguments, answer_by=until, rollback=rollback)
                except psycopg.errors.LockNotAvailable:
                    await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1))  # noqa: S311 - not a secret
    except Problem as problem:
        raise problem.after_a_lock() from None
    finally:
        pool.contended -= names
    raise Problem("timed_out")


def _names(function: str, arguments: dict[str, Any]) -> list[Name]:
    """Return what a call may wait for that is not an account."""
    names = ["idempotency_key", "hold_id", *(["external_id"] if function == "open_account" else [])]
    return [(name, arguments.get("ledger_id"), arguments[name]) for name in names if arguments.get(name) is not None]


def _would_be(posting: DictRow) -> DictRow:
    """Leave out the ids of what was taken back."""
    if not posting["replayed"]:  # else it is the transaction that was recorded then
        posting["transaction_id"] = None
        if posting["transaction_type"] == "cross_ledger":
            posting["original_transaction_id"] = None  # the other ledger's side of it
    return posting


@asynccontextmanager
async def _place(lane: asyncio.Semaphore, until: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(until - time.monotonic()):
            await lane.acquire()
    except TimeoutError:
        raise Problem("database_unavailable") from None
    try:
        yield
    finally:
        lane.release()


# ---- sending -----------------------------------------------------------------------------------------------


async def send(
    pool: Pool,
    function: str,
    arguments: dict[str, Any],
    *,
    answer_by: float,
    connect_by: float | None = None,
    rollback: bool = False,
    resets: bool = False,
) -> list[DictRow]:
    """Call a function, again where the connection broke or transactions collided, and return its rows.

    answer_by: of time.monotonic(). Not answered then, the connection is cut. connect_by: when it is not worth sending
    any more, if that is earlier. rollback: take back what it did. resets: of a pooler's connection to the server, take
    back first what forbids to write there; else only once that was met.
    Raises psycopg.Error, after which nothing was left behind; Problem database_unavailable when nothing was sent,
    outcome_unknown.
    """
    statement = _statement(function, tuple(arguments))
    parameters = [_array(value) if isinstance(value, list) else value for value in arguments.values()]
    sent = False
    """Whether an attempt has ended that may have posted."""
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        give_up_at = answer_by if sent else min(connect_by or answer_by, answer_by - pool.sending_seconds)
        try:
            async with pool.connection(timeout=give_up_at - time.monotonic()) as connection:
                with _cut_at(connection, answer_by):
                    try:
                        rows = await _execute(connection, statement, parameters, rollback=rollback, resets=resets)
                    except _STALE as error:
                        if connection.local_settings is not None or not left_nothing_behind(error):
                            raise
                        # Prepared, or begun, before the database was migrated: prepared again it is right.
                        await connection.execute("deallocate all", prepare=False)
                        rows = await _execute(connection, statement, parameters, rollback=rollback)
                if connection.left_standby_behind:
                    await connection.close()
                    raise Problem("outcome_unknown")
                return rows
        except (PoolTimeout, PoolClosed):
            raise Problem("outcome_unknown" if sent else "database_unavailable") from None
        except psycopg.Error as error:
            rolled_back = left_nothing_behind(error)
            # A pooler keeps for all what is stale for one, and gives it to the next connection too.
            stale_for_all = isinstance(error, _STALE) and connection.local_settings is not None
            lost_statement = stale_for_all or isinstance(error, poolers.LOST_STATEMENT)
            if lost_statement:
                log.warning("prepared statement lost", error=poolers.explained(error))
                await pool.lost_statement(connection)
            sent = sent or not rolled_back
            read_only = isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
            # Perhaps another client of the pooler has only left that behind: it is taken back, and nobody else's is.
            may_reset = read_only and connection.local_settings is not None and not resets
            resets = resets or may_reset
            if not rolled_back or (read_only and not may_reset):
                await pool.renew()
            collided = isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected)
            transient = collided or lost_statement or may_reset or not rolled_back
            again = transient and attempt < _ATTEMPTS_MAX and time.monotonic() < answer_by
            if not again:
                if sent and not _is_an_answer(error):
                    raise Problem("outcome_unknown") from error
                raise
            if collided:
                await asyncio.sleep(random.uniform(0, _BACKOFF_SECONDS * attempt))  # noqa: S311 - not a secret
    raise AssertionError("unreachable")


def _is_an_answer(error: psycopg.Error) -> bool:
    """Return whether it is what the request deserves, whenever it is sent: malformed, or a value out of range."""
    return (error.sqlstate or "")[:2] in ("TL", "22", "54")


async def _execute(
    connection: Connection, statement: bytes, parameters: list[Any], *, rollback: bool, resets: bool = False
) -> list[DictRow]:
    try:
        if (local_settings := connection.local_settings) is not None:
            return await _in_transaction(
                connection, local_settings, statement, parameters, rollback=rollback, resets=resets
            )
        if rollback:
            return await _roll_back(connection, statement, parameters)
        return await (await connection.execute(statement, parameters)).fetchall()
    except psycopg.Error:
        if connection.pgconn.pipeline_status != PipelineStatus.OFF:
            await connection.close()  # its session has ended in the middle: psycopg would try to roll back
        raise


async def _in_transaction(
    connection: Connection,
    local_settings: str,
    statement: bytes,
    parameters: list[Any],
    *,
    rollback: bool,
    resets: bool,
) -> list[DictRow]:
    """Execute in a transaction that is set up for it, because the session is not.

    It is all sent at once, so that no lock waits for the network, and two transactions have the same backend.
    """
    try:
        async with connection.pipeline():
            if resets:
                # To `begin … read write` would override what an administrator has set, and is an error on a standby.
                for bare in ("begin", "reset default_transaction_read_only", "commit"):
                    await _bare(connection, bare)
            await _bare(connection, BEGIN)
            # What another client has left behind would lose what we acknowledge.
            await _bare(connection, "set local synchronous_commit to default")
            await connection.execute(local_settings.encode())
            cursor = await connection.execute(statement, parameters)
            await _bare(connection, "rollback" if rollback else "commit")
    except psycopg.Error:
        if connection.pgconn.transaction_status == TransactionStatus.INERROR:
            with suppress(psycopg.Error):  # it was taken back all the same
                await _bare(connection, "rollback")
        raise
    return await cursor.fetchall()


async def _bare(connection: Connection, statement: str) -> None:
    """Execute what psycopg takes no notice of: after a rollback it would deallocate all that is prepared."""
    threshold, connection.prepare_threshold = connection.prepare_threshold, None
    try:
        await connection.execute(statement.encode())
    finally:
        connection.prepare_threshold = threshold


async def _roll_back(connection: Connection, statement: bytes, parameters: list[Any]) -> list[DictRow]:
    """Execute and take it back. It is all sent at once, so that no lock waits for the network."""
    async with connection.pipeline(), connection.transaction(force_rollback=True):
        cursor = await connection.execute(statement, parameters)
    return await cursor.fetchall()


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
