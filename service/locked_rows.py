"""Rows that somebody keeps locked, as far as this worker has met them, so that nobody waits for them with a connection.

A call waits for a lock for a few hundredths of a second at most. Then it gives its connection back, and what the locked
rows are is found out. Whoever names one of them waits here, without a connection, while one short call after the other
looks whether they are free. A row that goes from hand to hand has another holder now and then: whoever wants it queues
for it in the database, where the queue is fair, over one of a few connections that have patience (db.py).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import structlog

from service import metrics
from service.errors import Problem

log = structlog.get_logger()

_PAUSE_SECONDS_MIN = 0.005
_PAUSE_SECONDS_MAX = 0.05
_ROWS_MAX = 10_000
_SUSPICION_SECONDS = 5.0

ACCOUNT, TRANSACTION, SETTLEMENT = "account", "transaction", "settlement"

_ACCOUNT_ARGUMENTS = ("account_id", "debit_account_id", "credit_account_id", "beneficiary_account_id")
_ACCOUNTS_ARGUMENTS = ("account_ids", "debit_account_ids", "credit_account_ids")
_TRANSACTION_ARGUMENTS = ("hold_id", "transaction_id")


class Row(NamedTuple):
    """What a call may have to lock: an account, a transaction with its hold and accounts, or the settlement accounts.

    id: of a settlement row, the account at the other side, by which its currency is known.
    """

    ledger_id: int
    kind: str
    id: int

    def key(self) -> "Row":
        """Return what it is known by: the settlement accounts of a ledger together."""
        return self if self.kind != SETTLEMENT else self._replace(id=0)


class _Locked(NamedTuple):
    freed: "asyncio.Future[bool]"
    """Done when the holder is another one: False when there is none, True when it is in demand."""
    looked_for: Row
    holder: str


class LockedRows:
    """Those of one worker."""

    def __init__(self, look: Callable[..., Awaitable[list[dict[str, Any]]]], waiting_max: int) -> None:
        self._look = look
        self._waiting_max = waiting_max
        self._waiting = 0
        self._locked: dict[Row, _Locked] = {}
        self._watching: asyncio.Task[None] | None = None
        self._found_at = float("-inf")
        self._pause_seconds = _PAUSE_SECONDS_MIN

    @property
    def any(self) -> bool:
        """Whether there are any, as hardly ever."""
        return bool(self._locked)

    @property
    def more_likely(self) -> bool:
        """Whether somebody has locked rows just now, of which there may be more that nobody has met yet."""
        return bool(self._locked) and time.monotonic() - self._found_at < _SUSPICION_SECONDS

    def among(self, rows: Iterable[Row]) -> Row | None:
        """Return the first of these that is known to be locked."""
        if not self._locked:
            return None
        return next((row for row in rows if row.key() in self._locked), None)

    async def wait_or_look(self, rows: Iterable[Row], until: float) -> bool:
        """Return when none of these is locked, or when one of them is in demand, and whether that is why.

        Raises Problem timed_out at the deadline, or overloaded.
        """
        in_demand = await self.wait(rows, until)
        if not in_demand and self.more_likely and await self.find(rows):
            in_demand = await self.wait(rows, until)
        return in_demand

    async def wait(self, rows: Iterable[Row], until: float) -> bool:
        """Return as wait_or_look does, of the rows that are known to be locked."""
        while (row := self.among(rows)) is not None:
            if self._waiting >= self._waiting_max:
                raise Problem("overloaded")
            self._waiting += 1
            metrics.WAITING_FOR_ROWS.set(self._waiting)
            try:
                freed = self._locked[row.key()].freed
                done, _ = await asyncio.wait([freed], timeout=max(0, until - time.monotonic()))
            finally:
                self._waiting -= 1
                metrics.WAITING_FOR_ROWS.set(self._waiting)
            if not done:
                raise Problem("timed_out", f"{_named(row)} is locked by another transaction. Nothing was posted.")
            if freed.result():
                return True
        return False

    async def find(self, rows: Iterable[Row]) -> bool:
        """Find out which of these are locked by now; return whether any is."""
        found = await self._found(rows)
        for row, (looked_for, holder) in found.items():
            if row not in self._locked and len(self._locked) < _ROWS_MAX:
                self._locked[row] = _Locked(asyncio.get_running_loop().create_future(), looked_for, holder)
                self._found_at = time.monotonic()
                self._pause_seconds = _PAUSE_SECONDS_MIN  # it may be one that is merely in demand
        metrics.LOCKED_ROWS.set(len(self._locked))
        if self._locked and self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        return bool(found)

    async def stop(self) -> None:
        """Look no more; called when the server stops and nobody waits."""
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        """Look again and again, until none is locked any more."""
        try:
            while self._locked:
                await asyncio.sleep(self._pause_seconds)
                self._pause_seconds = min(2 * self._pause_seconds, _PAUSE_SECONDS_MAX)
                before = dict(self._locked)
                found = await self._found(locked.looked_for for locked in before.values())
                for row, locked in before.items():
                    _, holder = found.get(locked.looked_for, (None, None))
                    if holder is None:
                        del self._locked[row]
                    elif holder != locked.holder:
                        # It stays known, so that only those who have waited until now queue for it.
                        freed = asyncio.get_running_loop().create_future()
                        self._locked[row] = locked._replace(freed=freed, holder=holder)
                    if holder != locked.holder:
                        locked.freed.set_result(holder is not None)
                metrics.LOCKED_ROWS.set(len(self._locked))
        finally:
            self._watching = None

    async def _found(self, rows: Iterable[Row]) -> dict[Row, tuple[Row, str]]:
        """Return those that are locked, each with what is to be looked for next time, and who holds it."""
        found: dict[Row, tuple[Row, str]] = {}
        for ledger_id, ids in _by_ledger(rows).items():
            try:
                locked = await self._look(
                    account_ids=list(ids[ACCOUNT]),
                    settled_account_ids=list(ids[SETTLEMENT]),
                    transaction_ids=list(ids[TRANSACTION]),
                    ledger_id=ledger_id,
                )
            except Exception as error:  # whatever it is, whoever waits will meet it, and say so
                log.warning("locked rows not found", error=str(error))
                continue
            for row in locked:
                looked_for = Row(ledger_id, ACCOUNT if row["kind"] == SETTLEMENT else row["kind"], row["id"])
                found[Row(ledger_id, row["kind"], row["id"]).key()] = (looked_for, row["holder"])
        return found


def rows_of(arguments: dict[str, Any]) -> list[Row]:
    """Return what a function called with these arguments may have to lock, as far as they tell."""
    ledger_id = arguments.get("ledger_id", 1)
    rows = [
        Row(arguments.get("credit_ledger_id", ledger_id) if name == "credit_account_id" else ledger_id, ACCOUNT, number)
        for name in _ACCOUNT_ARGUMENTS
        if (number := arguments.get(name)) is not None
    ]
    for name in _ACCOUNTS_ARGUMENTS:
        rows += [Row(ledger_id, ACCOUNT, number) for number in arguments.get(name) or ()]
    for name in _TRANSACTION_ARGUMENTS:
        if (number := arguments.get(name)) is not None:
            rows.append(Row(ledger_id, TRANSACTION, number))
    return rows


def _by_ledger(rows: Iterable[Row]) -> dict[int, dict[str, set[int]]]:
    ids: dict[int, dict[str, set[int]]] = {}
    for row in rows:
        of_ledger = ids.setdefault(row.ledger_id, {ACCOUNT: set(), TRANSACTION: set(), SETTLEMENT: set()})
        of_ledger[row.kind].add(row.id)
    return ids


def _named(row: Row) -> str:
    return "A settlement account" if row.kind == SETTLEMENT else f"{row.kind.capitalize()} {row.id}"
