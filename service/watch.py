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
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

import click
import psycopg
from psycopg.pq import TransactionStatus

from service.session import connection_defaults, session_options

ASK_SECONDS = 10.0
"""From one question to the next."""
ANSWER_SECONDS_MAX = 10.0
"""How long a question may take, connecting included."""
SILENCE_SECONDS_MAX = 60.0
REPORT_SECONDS = 60.0
"""How often a command says that it still waits, and for whom."""
CANCEL_SECONDS_MAX = 1.0
"""How long Ctrl-C waits for the server to take the request to cancel."""

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


class SilentServerError(psycopg.OperationalError):
    """PostgreSQL does not answer; the message says for how long."""


class _Connection(psycopg.Connection[Any]):
    watch: "Watch"

    def cancel_safe(self, *, timeout: float = CANCEL_SECONDS_MAX) -> None:
        """Cancel what runs; let go of a server that does not even take the request, so that Ctrl-C ends us."""
        try:
            super().cancel_safe(timeout=min(timeout, CANCEL_SECONDS_MAX))
        except psycopg.Error:
            self.watch.give_up("interrupted; PostgreSQL has not taken the request to cancel")
            raise


class _Session(NamedTuple):
    connection: _Connection
    server: str
    pid: int


class Watch:
    """Watches over the connections that are made by it, as a context in which they are used.

    seconds_max: how long all of it may take; None for what is only ended when the server is silent.
    Within it an error may say that the connection was lost; it leaves as SilentServerError if that is the reason.
    """

    def __init__(self, database_url: str, seconds_max: float | None = None) -> None:
        self._url = database_url
        self._seconds_max = seconds_max
        self._connections: list[_Connection] = []
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

    def connect(self, **settings: Any) -> psycopg.Connection[Any]:
        """Connect, every statement a transaction of its own."""
        settings = {"autocommit": True, "options": session_options(self._url), "client_encoding": "UTF8", **settings}
        connection = _Connection.connect(self._url, **connection_defaults(self._url), **settings)
        connection.watch = self
        self._connections.append(connection)
        if self._verdict is not None:
            connection.close()
            raise SilentServerError(self._verdict)
        with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            # Not the pid that the connection knows: a pooler between us makes that up.
            cursor.execute("select pg_postmaster_start_time()::text, pg_backend_pid()")
            self._sessions += [_Session(connection, *row) for row in cursor]
        return connection

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
                return {(row["server"], row["pid"]): row for row in connection.execute(_SESSIONS, [pids])}
            finally:
                bound.cancel()

    def _report(self, state: dict[str, Any]) -> None:
        if time.monotonic() - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = time.monotonic()
        why = f"waits for process {state['blockers']}" if state["blockers"] else "is at work"
        with suppress(OSError):
            click.echo(f"PostgreSQL's process {state['pid']} {why}, for {state['seconds']} s now", err=True)


def _waits(connection: psycopg.Connection[Any]) -> bool:
    return connection.pgconn.transaction_status == TransactionStatus.ACTIVE


def _shut(connection: psycopg.Connection[Any]) -> None:
    """Let whoever waits for an answer see the end of the connection; its thread closes it then."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as ours:
        ours.shutdown(socket.SHUT_RDWR)
