"""Only one session at a time changes what is installed or corrects times; and whom a session waits for is said.

The lock is one of bank_owner's own table, in a transaction: nobody else can take it, and none is left behind. The
transaction is idle meanwhile, without a snapshot, so that an index that is made concurrently does not wait for it.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import psycopg

from service.terminal import say
from service.watch import Watch

Connection = psycopg.Connection[Any]

WAIT_SECONDS_MAX = 600.0
"""How long to wait for somebody else who migrates or corrects times, and for whoever holds locks that we need."""
REPORT_FIRST_SECONDS = 3.0
REPORT_SECONDS = 30.0
_ATTEMPT_SECONDS = 1
_OBSERVE_SECONDS = 0.05
_STATEMENT_LENGTH_MAX = 80

_BLOCKERS = """
select a.pid, a.usename, a.application_name, a.state, a.query, a.xact_start::timestamptz(0) as since
from pg_catalog.pg_stat_activity as a where a.pid = any(pg_catalog.pg_blocking_pids(%s)) order by a.pid
"""


class MigrationError(RuntimeError):
    """The installation cannot be changed now; the message says why and what to do."""


class Waiting:
    """Says what a session waits for and whom it waits for, and gives up in the end.

    A context in which one thing is waited for. Whoever waits calls `again` after each attempt that failed.
    """

    def __init__(self, watch: Watch, pid: int, what: str, seconds_max: float | None = None) -> None:
        self._watch = watch
        self._pid = pid
        self._what = what
        self._seconds_max = WAIT_SECONDS_MAX if seconds_max is None else seconds_max
        self._began_at = 0.0
        self._report_at = 0.0
        self._blockers = ""
        self._done = threading.Event()
        self._observer: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._observer is not None:
            self._observer.join()

    def again(self, reason: psycopg.Error) -> None:
        """Return when it may be tried again; raises MigrationError when that has been done for long enough."""
        now = time.monotonic()
        if self._observer is None:
            self._began_at, self._report_at = now, now + REPORT_FIRST_SECONDS
            self._observer = threading.Thread(target=self._observe, daemon=True)
            self._observer.start()
        whom = self._blockers or f"another session ({reason.diag.message_primary})"
        waited = now - self._began_at
        if waited > self._seconds_max:
            raise MigrationError(
                f"{self._what} had to be waited for longer than {self._seconds_max:g} s: it waits for {whom}. "
                "Nothing is half done: let that end, or end it, and run this again"
            )
        if now > self._report_at:
            self._report_at = now + REPORT_SECONDS
            say(f"{self._what} is waited for, for {waited:.0f} s now: it waits for {whom}", err=True)

    def _observe(self) -> None:
        """Look again and again, for locks are only seen while they are waited for."""
        with suppress(psycopg.Error, OSError), self._watch.connect() as connection:
            while not self._done.wait(_OBSERVE_SECONDS):
                with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
                    rows = cursor.execute(_BLOCKERS, [self._pid]).fetchall()
                if rows:
                    self._blockers = ", ".join(map(_described, rows))


def _described(session: dict[str, Any]) -> str:
    who = ", ".join(name for name in (session["usename"], session["application_name"]) if name)
    statement = " ".join((session["query"] or "").split())
    if len(statement) > _STATEMENT_LENGTH_MAX:
        statement = statement[:_STATEMENT_LENGTH_MAX] + "…"
    doing = f"{session['state'] or 'state not known'}, in a transaction since {session['since']}"
    return f"process {session['pid']} ({who or 'user not known'}; {doing}; its last statement: {statement})"


@contextmanager
def installation_lock(watch: Watch) -> Iterator[None]:
    """Hold the lock until the end of the block, on a connection of its own.

    Raises MigrationError when somebody else has held it for too long.
    """
    with watch.connect() as connection, held(watch, connection):
        yield


@contextmanager
def held(watch: Watch, connection: Connection) -> Iterator[None]:
    """Begin a transaction of the connection, and hold the lock until it ends with the block.

    Raises MigrationError when somebody else has held it for too long.
    """
    [pid] = connection.execute("select pg_backend_pid()").fetchone() or [0]
    with connection.transaction():
        with Waiting(watch, pid, "The lock of whoever migrates or corrects times") as waiting:
            while not _is_locked(connection, waiting):
                pass
        yield


def _is_locked(connection: Connection, waiting: Waiting) -> bool:
    try:
        with connection.transaction():
            connection.execute("set local role bank_owner")
            connection.execute(f"set local lock_timeout = '{_ATTEMPT_SECONDS}s'")
            connection.execute("lock table bank.installation in exclusive mode")
            connection.execute("set local lock_timeout = 0")
            connection.execute("reset role")
    except psycopg.errors.LockNotAvailable as error:
        waiting.again(error)
        return False
    return True
