"""Commands give up on a PostgreSQL that is silent, and say whom one that is busy waits for.

A statement may take an hour, and a silent server looks no different to whoever waits for it. So another connection
asks, every so often, what has become of the statement. A command ends when nothing was heard for a minute: the server
is stopped, a proxy has stopped forwarding, the address leads nowhere. It also ends when the statement has ended and its
answer has not arrived. Any answer, also that there are too many connections, means that the server lives. What has its
own deadline, seconds_max, is asked about no longer than that.

A backend that is stopped while its server answers cannot be told from one that is busy: it is waited for.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

import psycopg
from psycopg.pq import TransactionStatus

from service import poolers
from service.session import PATIENT, connection_defaults, session_options, set_settings, set_settings_locally
from service.terminal import say

ASK_SECONDS = 10.0
"""From one question to the next."""
ANSWER_SECONDS_MAX = 10.0
"""How long a question may take, connecting included."""
SILENCE_SECONDS_MAX = 60.0
REPORT_SECONDS = 60.0
"""How often a command says that it still waits, and for whom."""
CANCEL_SECONDS_MAX = 1.0
"""How long Ctrl-C waits for the server to take the request to cancel."""

_TRANSACTION_TIMEOUT = 170_000
"""From this version on there is the setting of this name."""

_SESSIONS = """
select
    pg_postmaster_start_time()::text as server,
    a.pid,
    a.state,
    a.state_change,
    extract(epoch from clock_timestamp() - a.query_start)::integer as seconds,
    (
        select string_agg(concat(b.pid, ' (' || nullif(b.application_name, '') || ')'), ', ' order by b.pid)
        from pg_stat_activity as b
        where b.pid = any(pg_blocking_pids(a.pid))
    ) as blockers
from (select) as always
left join pg_stat_activity as a on a.pid = any(%s)
"""


_BACKEND = "select pg_postmaster_start_time()::text as server, pg_backend_pid() as pid"


class SilentServerError(psycopg.OperationalError):
    """PostgreSQL does not answer; the message says for how long."""


class Connection(psycopg.Connection[Any]):
    """A connection of a command that is watched over."""

    watch: "Watch"
    local_settings: str | None = None
    """What sets up each transaction behind a pooler; None where the session is ours."""

    @contextmanager
    def begun(self) -> Iterator[None]:
        """A transaction that is set up as the session would be, where a pooler is between; nothing where none is."""
        if self.local_settings is None:
            yield
            return
        self.watch.forget(self)  # none of the server's serves us until it has begun
        with self.transaction():
            self.watch.note(self, self.local_settings)
            yield

    def cancel_safe(self, *, timeout: float = CANCEL_SECONDS_MAX) -> None:
        """Cancel what runs; let go of a server that does not even take the request, so that Ctrl-C ends us."""
        try:
            super().cancel_safe(timeout=min(timeout, CANCEL_SECONDS_MAX))
        except psycopg.Error:
            self.watch.give_up("interrupted; PostgreSQL has not taken the request to cancel")
            raise


class _Session(NamedTuple):
    connection: Connection
    server: str
    pid: int


class Watch:
    """Watches over the connections that are made by it, as a context in which they are used.

    seconds_max: how long all of it may take; None for what is only ended when the server is silent.
    Within it an error may say that the connection was lost; it leaves as SilentServerError if that is the reason.
    """

    def __init__(self, database_url: str, seconds_max: float | None = None, *, pooler: str = "auto") -> None:
        """pooler: as the setting DATABASE_POOLER has it."""
        self._url = database_url
        self._pooler = pooler
        self._seconds_max = seconds_max
        self._connections: list[Connection] = []
        self._sessions: list[_Session] = []
        self._done = threading.Event()
        self._verdict: str | None = None
        self._reported_at = 0.0
        self._ended: set[tuple[int, object]] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._verdict is not None and isinstance(exception, Exception):
            raise SilentServerError(self._verdict) from None

    def connect(self, **settings: Any) -> Connection:
        """Connect to the server itself, every statement a transaction of its own.

        Raises PoolerInTheWayError where a pooler is between.
        """
        try:
            connection = self.connect_as_login(**{"options": session_options(self._url, **PATIENT), **settings})
        except psycopg.OperationalError as error:
            if poolers.refuses_options(error):
                raise poolers.PoolerInTheWayError from None
            raise
        backend_pid = self.note(connection, _BACKEND)
        if self._pooler != "none" and backend_pid != connection.info.backend_pid:
            connection.close()
            raise poolers.PoolerInTheWayError
        if connection.info.server_version >= _TRANSACTION_TIMEOUT:
            connection.execute("set transaction_timeout = 0")
        return connection

    def connect_anyhow(self, role: str, session_settings: dict[str, str], **settings: Any) -> Connection:
        """Connect, and take the role, also where a pooler is between: call the database within begun()."""
        connection = self.connect_as_login(**settings)
        if self._pooler != "transaction":
            pid = connection.info.backend_pid if self._pooler == "auto" else None
            try:
                is_ours = connection.execute(set_settings(session_settings, role, backend_pid=pid).encode()).rowcount
            except psycopg.Error:  # it may not take the role
                connection.close()
                raise
            if is_ours:
                self.note(connection, _BACKEND)
                return connection
        connection.prepare_threshold = None
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        connection.local_settings = set_settings_locally(session_settings, role)
        return connection

    def connect_as_login(self, **settings: Any) -> Connection:
        """Connect, and set nothing and take no role, whatever is between."""
        settings = {"autocommit": True, "client_encoding": "UTF8", **settings}
        connection = Connection.connect(self._url, **connection_defaults(self._url), **settings)
        connection.watch = self
        self._connections.append(connection)
        if self._verdict is not None:
            connection.close()
            raise SilentServerError(self._verdict)
        return connection

    def note(self, connection: Connection, statement: str) -> int:
        """Note which backend serves the connection now, and return its pid; it is the server that is asked.

        Not the pid that the connection knows: a pooler between us makes that up.
        """
        with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            [row] = cursor.execute(statement.encode()).fetchall()
        self.forget(connection)
        self._sessions.append(_Session(connection, row["server"], row["pid"]))
        pid: int = row["pid"]
        return pid

    def forget(self, connection: Connection) -> None:
        """Forget which backend serves it: behind a pooler none does until a transaction begins."""
        self._sessions = [session for session in self._sessions if session.connection is not connection]

    def give_up(self, verdict: str) -> None:
        """End the connections, so that nobody waits for them any longer; those to come are refused."""
        self._verdict = verdict
        for connection in self._connections:
            _shut(connection)

    # ---- in a thread of its own ----------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._seconds_max is not None:
            if not self._done.wait(self._seconds_max):
                self.give_up(f"PostgreSQL has not answered within {self._seconds_max:g} s")
            return
        heard_at = self._reported_at = time.monotonic()
        while not self._done.wait(ASK_SECONDS) and self._verdict is None:
            waiting = [session for session in self._sessions if _waits(session.connection)]
            if not any(map(_waits, self._connections)) or self._is_heard(waiting):
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > SILENCE_SECONDS_MAX:
                self.give_up(f"PostgreSQL has been silent for {SILENCE_SECONDS_MAX:g} s")

    def _is_heard(self, waiting: list[_Session]) -> bool:
        """Ask what has become of the sessions that we wait for; return whether anything answered."""
        asked_at = time.monotonic()
        try:
            states = self._ask([session.pid for session in waiting])
        except (psycopg.Error, OSError):
            # What comes at once is an answer too: too many connections, no such host any more.
            return time.monotonic() - asked_at < ANSWER_SECONDS_MAX
        ended = set()
        for session in waiting:
            state = states.get((session.server, session.pid))
            if state is not None and state["state"] in ("active", "disabled", None):  # where nobody keeps account of it
                self._report(state)
            elif session.server in {server for server, _ in states}:
                ended.add((session.pid, state and state["state_change"]))
        if ended & self._ended:
            self.give_up("PostgreSQL has ended what was asked, but its answer has not arrived")
        self._ended = ended
        return True

    def _ask(self, pids: list[int]) -> dict[tuple[str, int | None], dict[str, Any]]:
        settings = connection_defaults(self._url) | {"connect_timeout": int(ANSWER_SECONDS_MAX), "autocommit": True}
        with psycopg.connect(self._url, row_factory=psycopg.rows.dict_row, **settings) as connection:
            bound = threading.Timer(ANSWER_SECONDS_MAX, _shut, [connection])
            bound.daemon = True
            bound.start()
            try:
                with connection.transaction():
                    connection.execute("set local search_path = pg_catalog")  # it may be a pooler's
                    return {(row["server"], row["pid"]): row for row in connection.execute(_SESSIONS, [pids])}
            finally:
                bound.cancel()

    def _report(self, state: dict[str, Any]) -> None:
        if time.monotonic() - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = time.monotonic()
        why = f"waits for process {state['blockers']}" if state["blockers"] else "is at work"
        say(f"PostgreSQL's process {state['pid']} {why}, for {state['seconds']} s now", err=True)


def _waits(connection: psycopg.Connection[Any]) -> bool:
    return connection.pgconn.transaction_status == TransactionStatus.ACTIVE


def _shut(connection: psycopg.Connection[Any]) -> None:
    """Let whoever waits for an answer see the end of the connection; its thread closes it then."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as ours:
        ours.shutdown(socket.SHUT_RDWR)
