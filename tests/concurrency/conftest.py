"""Deterministic interleavings: one session holds, another is seen waiting for it, then the first one lets go.

The lock protocol that these tests pin down:

1. A posting locks its two accounts, FOR NO KEY UPDATE, in ascending account_id. Whoever wants one of them waits, and
   then decides on what was committed meanwhile.
2. Then it inserts its transaction. A second insert with the same idempotency key waits for the first one's end.
3. It holds both until the end of the caller's transaction. Nothing waits for a key and then for an account within one
   call, so single calls never deadlock; several calls in one transaction may, and PostgreSQL then aborts one (40P01).
4. Readers lock nothing. Opening an account waits only for a racing first account of the currency, for a racing opening
   with the same idempotency key, or for a racing account with the same external_id, and takes them in this order:
   unique indexes decide all three.

The sessions of a test run at each isolation level in turn. The rule is the same at all of them: a call is right, or it
raises 40001 and is made again, as a client would. Whoever waited under REPEATABLE READ or SERIALIZABLE has a snapshot
from before, so it may do the latter; a waiter who finds that nothing was changed after all goes on. The other
connections of a test (app, owner) look on, or are what somebody else commits meanwhile: they are READ COMMITTED.

No test sleeps and hopes: `Call.is_blocked_by` asks pg_blocking_pids until the waiter is seen, up to a deadline.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass

import psycopg
import pytest

from tests.conftest import Bank, Connection
from tests.helpers import Row

DEADLINE_SECONDS = 10
POLL_SECONDS = 0.005
ATTEMPTS_MAX = 5
LEVELS = ["read committed", "repeatable read", "serializable"]
FIXED_SNAPSHOT_LEVELS = LEVELS[1:]


def posting(connection: Connection, call: str) -> Row:
    """The row that a call of a function of schema bank returns, such as `transfer(2, 3, 500)`."""
    row = connection.execute(f"select * from bank.{call}".encode()).fetchone()
    assert row is not None
    return row


@dataclass(frozen=True)
class Call:
    """A statement that runs in a thread of its own, on a connection that nobody else uses meanwhile."""

    connection: Connection
    observer: Connection
    future: Future[list[Row]]

    def is_blocked_by(self, *holders: Connection) -> bool:
        """Wait until the server says so of one of them; false when the call ends first, or the deadline passes."""
        waiter_pid, holder_pids = self.connection.info.backend_pid, [holder.info.backend_pid for holder in holders]
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline and not self.future.done():
            row = self.observer.execute(
                "select %s::integer[] && pg_blocking_pids(%s) as blocked", [holder_pids, waiter_pid]
            )
            if row.fetchone() == {"blocked": True}:
                return True
            time.sleep(POLL_SECONDS)
        return False

    def rows(self) -> list[Row]:
        """What it returned; raises what it raised."""
        return self.future.result(DEADLINE_SECONDS)

    def row(self) -> Row:
        (row,) = self.rows()
        return row


class Sessions:
    """The sessions of one test on one bank, at one isolation level."""

    def __init__(self, bank: Bank, isolation: str) -> None:
        self._bank = bank
        self._isolation = isolation
        self._executor = ThreadPoolExecutor()
        self._observer = bank.connect("postgres")
        self._connections = [self._observer]
        self._calls: list[Call] = []

    def idle(self, role: str = "bank_app", *, autocommit: bool = True) -> Connection:
        """A session that does nothing yet; whatever it runs ends in an error rather than never."""
        connection = self._bank.connect(role)
        self._connections.append(connection)
        connection.execute(f"set statement_timeout = '{DEADLINE_SECONDS}s'".encode())
        connection.execute(f"set default_transaction_isolation = '{self._isolation}'".encode())
        connection.autocommit = autocommit
        return connection

    def holding(self, statement: str, role: str = "bank_app") -> Connection:
        """A session with an open transaction in which it has run the statement."""
        connection = self.idle(role, autocommit=False)
        connection.execute(statement.encode())
        return connection

    def start(self, statement: str, role: str = "bank_app", *, on: Connection | None = None) -> Call:
        """Run the statement in a thread, in a session that commits at once unless it is given one.

        Whoever commits at once makes the call again when it is told to by 40001: nothing else is lost by that.
        """
        connection = on or self.idle(role)

        def run() -> list[Row]:
            for _ in range(ATTEMPTS_MAX if connection.autocommit else 0):
                with suppress(psycopg.errors.SerializationFailure):
                    return connection.execute(statement.encode()).fetchall()
            return connection.execute(statement.encode()).fetchall()

        call = Call(connection, self._observer, self._executor.submit(run))
        self._calls.append(call)
        return call

    def close(self) -> None:
        """End the threads, then the connections that they use."""
        for call in self._calls:
            if not call.future.done():
                call.connection.cancel_safe()
        self._executor.shutdown()
        for connection in self._connections:
            connection.close()


@pytest.fixture(params=LEVELS)
def isolation(request: pytest.FixtureRequest) -> str:
    level: str = request.param
    return level


@pytest.fixture
def sessions(bank: Bank, isolation: str) -> Iterator[Sessions]:
    with closing(Sessions(bank, isolation)) as made:
        yield made


@pytest.fixture
def accounts(app: Connection) -> list[int]:
    """Four accounts in EUR with 100.00 each: ids 2 to 5; 1 is the settlement account."""
    opened = [int(posting(app, "open_account('Ada', 'EUR')")["account_id"]) for _ in range(4)]
    assert opened == [2, 3, 4, 5]
    for account_id in opened:
        posting(app, f"credit({account_id}, 10000)")
    return opened


def sqlstate_and_code(call: Callable[[], object]) -> tuple[str | None, str | None]:
    """What a call raises: SQLSTATE and message, which is the code of the catalogue."""
    with pytest.raises(psycopg.Error) as raised:
        call()
    return raised.value.sqlstate, raised.value.diag.message_primary
