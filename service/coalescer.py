"""Requests that wait for the database at the same moment are sent to it as one call.

A request that finds a free place is sent as soon as the event loop has nothing else to read, so nobody waits on a
timer. While `coalescer_flushes_max` calls are in flight the others gather, and the next call takes them all. Each gets
the answer that it would have got alone, and from a call that began after the request came in: what was acknowledged
before is seen.

One slow thing does not stop the rest. A call that takes long gives up its place, and the next one goes past it on
another connection. A call that met a lock was taken back: those of its requests that name a locked row wait until that
is free (locked_rows.py), the others go again at once. And each request is answered at its deadline, wherever it is.

When the database fails, every request of the call fails with it: what became of a posting is not known, and a retry
with the same key posts at most once. A client that goes away takes nothing back. A full queue is answered with 503.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import psycopg

from service import deadlines, metrics
from service.config import Settings
from service.db import Pool, call, insist, read, send
from service.errors import Problem
from service.locked_rows import Row

_ITEMS_MAX = 500
SLOW_CALLS_MAX = 3
"""How many calls that took too long for their place go on beside those that have one."""
_WATCH_SECONDS = 0.25

I = TypeVar("I")  # noqa: E741 - of an item, as in T
A = TypeVar("A")


class _Waiting(NamedTuple, Generic[I, A]):
    item: I
    answer: "asyncio.Future[A]"
    since: float
    until: float
    in_demand: bool
    """Whether it names a row that goes from hand to hand, and so queues for it in the database, where that is fair."""


class _MetLockError(Exception):
    """The call met a lock, and left nothing behind: wait for the row, and come again."""


class Coalescer(ABC, Generic[I, A]):
    """The queues of one worker, one for each ledger that has requests waiting."""

    function: ClassVar[str]
    """The function of schema bank that takes many items; the figures are labelled with it."""
    slow_seconds: ClassVar[float] = 0.1
    """After this long a call has no place any more: many times what one takes."""
    flushes_max: ClassVar[int | None] = None
    """The most calls in flight, when fewer than the setting are better."""
    reads: ClassVar[bool]
    """Whether that function only reads: it locks nothing, and an answer that does not come leaves nothing behind."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.pool = pool
        self._flushes_max = min(settings.coalescer_flushes_max, self.flushes_max or settings.coalescer_flushes_max)
        self._queue_max = settings.coalescer_queue_max
        self._queues: dict[int, deque[_Waiting[I, A]]] = {}
        self._queued = 0
        self._flushes: set[asyncio.Task[None]] = set()
        """Those that have a place."""
        self._slow: set[asyncio.Task[None]] = set()
        """Those that took too long for one."""
        self._in_flight: dict[asyncio.Task[None], list[_Waiting[I, A]]] = {}
        """All calls."""
        self._gathering: asyncio.Handle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._figures = metrics.CoalescerFigures(self.function)

    @abstractmethod
    def statement(self, ledger_id: int, items: list[I]) -> tuple[str, dict[str, Any]]:
        """Return the function that does the items in order, and its arguments."""

    @abstractmethod
    def answers(self, items: list[I], rows: list[dict[str, Any]]) -> list[A]:
        """Return the answer to each item, in order."""

    def locks(self, ledger_id: int, item: I) -> Iterable[Row]:
        """Return what the item may have to lock."""
        return ()

    async def submit(self, ledger_id: int, item: I) -> A:
        """Return the answer to the item; raises Problem overloaded, or what its call raised."""
        if not self._flushes_max:
            return await self._alone(ledger_id, item)
        until = deadlines.current(self.pool.request_timeout_seconds)
        if self.reads:
            return await self._queue(ledger_id, item, until, in_demand=False)
        if self.pool.contended:
            function, arguments = self.statement(ledger_id, [item])
            if self.pool.is_contended(function, arguments):
                return await self._alone(ledger_id, item)
        met_lock = in_demand = False
        while True:
            if self.pool.locked.any:
                in_demand = await self.pool.locked.wait(self.locks(ledger_id, item), until)
            try:
                return await self._queue(ledger_id, item, until, in_demand)
            except _MetLockError:
                met_lock = True
            except Problem as problem:
                raise problem.after_a_lock() if met_lock else problem from None

    async def drain(self) -> None:
        """Wait until everything that was taken is answered; called when the server stops."""
        while self._queued or self._in_flight:
            self._send()
            await asyncio.wait(self._in_flight)

    async def _alone(self, ledger_id: int, item: I) -> A:
        function, arguments = self.statement(ledger_id, [item])
        rows = await (read if self.reads else call)(self.pool, function, **arguments)
        [answer] = self.answers([item], rows)
        return answer

    def _queue(self, ledger_id: int, item: I, until: float, in_demand: bool) -> "asyncio.Future[A]":
        if self._queued >= self._queue_max:
            self._figures.refused.inc()
            raise Problem("overloaded")
        loop = asyncio.get_running_loop()
        waiting: _Waiting[I, A] = _Waiting(item, loop.create_future(), time.perf_counter(), until, in_demand)
        self._queues.setdefault(ledger_id, deque()).append(waiting)
        self._queued += 1
        if self._watching is None:
            self._watching = loop.call_later(_WATCH_SECONDS, self._watch)
        if len(self._flushes) == self._flushes_max:
            self._figures.queued.set(self._queued)
        elif self._gathering is None:
            self._gather()
        return waiting.answer

    # ---- sending -------------------------------------------------------------------------------------------

    def _gather(self) -> None:
        """Send as soon as two passes of the event loop have brought nothing more: at once when there is no load."""
        loop = asyncio.get_running_loop()
        self._gathering = loop.call_soon(loop.call_soon, self._gathered, self._queued)

    def _gathered(self, queued_before: int) -> None:
        self._gathering = None
        if queued_before < self._queued < _ITEMS_MAX:
            self._gather()
        else:
            self._send()

    def _send(self) -> None:
        """Start calls while there is something to send and a place to send it."""
        while self._queues and len(self._flushes) < self._flushes_max:
            ledger_id, queue = next(iter(self._queues.items()))
            batch = [queue.popleft() for _ in range(min(len(queue), _ITEMS_MAX))]
            self._queued -= len(batch)
            del self._queues[ledger_id]
            if queue:
                self._queues[ledger_id] = queue  # at the end: ledgers take turns
            self._start(ledger_id, batch)

    def _start(self, ledger_id: int, batch: list[_Waiting[I, A]]) -> None:
        task = self._start_aside(self._flush(ledger_id, batch), batch)
        self._flushes.add(task)
        slow = asyncio.get_running_loop().call_later(self.slow_seconds, self._step_aside, task)
        task.add_done_callback(lambda _: slow.cancel())

    def _start_aside(self, answering: Coroutine[Any, Any, None], batch: list[_Waiting[I, A]]) -> "asyncio.Task[None]":
        """Begin a call that has no place: what may wait long for a lock does so over other connections."""
        task = asyncio.create_task(answering)
        self._in_flight[task] = batch
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._slow.discard(task)
        del self._in_flight[task]
        self._give_up_place(task)

    def _step_aside(self, task: "asyncio.Task[None]") -> None:
        if task not in self._flushes:
            return
        if len(self._slow) < SLOW_CALLS_MAX:
            self._slow.add(task)
            self._give_up_place(task)
        else:  # perhaps later
            asyncio.get_running_loop().call_later(self.slow_seconds, self._step_aside, task)

    def _give_up_place(self, task: "asyncio.Task[None]") -> None:
        self._flushes.discard(task)
        if self._queued and self._gathering is None:
            self._gather()

    async def _flush(self, ledger_id: int, batch: list[_Waiting[I, A]]) -> None:
        if self.pool.locked.any:
            patient = self.pool.patient
            queueing = [waiting for waiting in batch if waiting.in_demand and patient.can_send(waiting.until)]
            if queueing:
                self._start_aside(self._observed(ledger_id, queueing, patient), queueing)
                queued = {id(waiting) for waiting in queueing}
                batch = [waiting for waiting in batch if id(waiting) not in queued]
            if self.pool.locked.more_likely:
                await self.pool.locked.find(self._locks(ledger_id, batch))
            self._set_aside(ledger_id, batch)
            batch = _unanswered(batch)
        if batch:
            await self._observed(ledger_id, batch, self.pool)

    async def _observed(self, ledger_id: int, batch: list[_Waiting[I, A]], pool: Pool) -> None:
        with self._figures.flush(len(batch), self._queued, batch[0].since):
            await self._answer(ledger_id, batch, pool)

    async def _answer(self, ledger_id: int, batch: list[_Waiting[I, A]], pool: Pool) -> None:
        items = [waiting.item for waiting in batch]
        first_deadline = min([waiting.until for waiting in batch])
        last_deadline = max([waiting.until for waiting in batch])
        function, arguments = self.statement(ledger_id, items)
        try:
            rows = await send(pool, function, arguments, answer_by=last_deadline, connect_by=first_deadline)
        except psycopg.errors.LockNotAvailable:
            await self._met_lock(ledger_id, batch)
        except Exception as error:
            if isinstance(error, Problem) and error.is_unsent and time.monotonic() >= first_deadline:
                self._queue_again(ledger_id, batch)  # but for those whose deadline it was
            elif len(batch) == 1 or not _is_of_an_item(error):
                self._fail(batch, error)
            else:
                # Nothing was done for any of them. One is at fault, and halves find it in few calls; order is kept.
                await self._halve(ledger_id, batch)
        else:
            self._succeed(batch, rows)

    async def _halve(self, ledger_id: int, batch: list[_Waiting[I, A]]) -> None:
        middle = len(batch) // 2
        await self._answer(ledger_id, batch[:middle], self.pool)
        await self._answer(ledger_id, batch[middle:], self.pool)

    # ---- what is slow --------------------------------------------------------------------------------------

    async def _met_lock(self, ledger_id: int, batch: list[_Waiting[I, A]]) -> None:
        """Let those wait that name a locked row, and send the others again."""
        await self.pool.locked.find(self._locks(ledger_id, [*batch, *self._queues.get(ledger_id, ())]))
        # Meanwhile the queue may have become another: what has left it is in another call.
        self._set_aside(ledger_id, [*batch, *self._queues.get(ledger_id, ())])
        self._leave_only(ledger_id, _unanswered(self._queues.get(ledger_id, ())))
        others = _unanswered(batch)
        if len(others) < len(batch):
            self._queue_again(ledger_id, others)
        elif len(batch) > 1:
            await self._halve(ledger_id, batch)
        else:
            self._start_aside(self._insist(ledger_id, batch[0]), batch)

    def _locks(self, ledger_id: int, batch: list[_Waiting[I, A]]) -> Iterator[Row]:
        return (row for waiting in batch for row in self.locks(ledger_id, waiting.item))

    def _set_aside(self, ledger_id: int, batch: list[_Waiting[I, A]]) -> None:
        """Let those wait that name a row which is known to be locked."""
        for waiting in batch:
            if self.pool.locked.among(self.locks(ledger_id, waiting.item)) is not None and not waiting.answer.done():
                waiting.answer.set_exception(_MetLockError())

    async def _insist(self, ledger_id: int, waiting: _Waiting[I, A]) -> None:
        """Send it by itself, again and again: what it waits for is not a row that it names."""
        function, arguments = self.statement(ledger_id, [waiting.item])
        try:
            rows = await insist(self.pool, function, arguments, until=waiting.until)
        except Exception as error:
            self._fail([waiting], error)
        else:
            self._succeed([waiting], rows)

    def _queue_again(self, ledger_id: int, batch: list[_Waiting[I, A]]) -> None:
        """Put those at the head of the queue, where they came from, whose deadline has not passed."""
        now = time.monotonic()
        again = [waiting for waiting in _unanswered(batch) if now < waiting.until]
        self._fail([waiting for waiting in batch if now >= waiting.until], Problem("database_unavailable"))
        if again:
            self._queues.setdefault(ledger_id, deque()).extendleft(reversed(again))
            self._queued += len(again)

    def _leave_only(self, ledger_id: int, left: list[_Waiting[I, A]]) -> None:
        self._queued += len(left) - len(self._queues.pop(ledger_id, ()))
        if left:
            self._queues[ledger_id] = deque(left)

    def _watch(self) -> None:
        """Answer those whose deadline has passed, in a queue or in flight."""
        now = time.monotonic()
        for ledger_id, queue in list(self._queues.items()):
            late = [waiting for waiting in queue if now >= waiting.until]
            if late:
                self._fail(late, Problem("database_unavailable"))
                self._leave_only(ledger_id, [waiting for waiting in queue if now < waiting.until])
        for batch in self._in_flight.values():
            # A moment later than the call itself would say so, and more exactly, if they were the last of it.
            late = [waiting for waiting in batch if now >= waiting.until + _WATCH_SECONDS]
            self._fail(late, Problem("outcome_unknown"))
        self._watching = None
        if self._queued or self._in_flight:
            self._watching = asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._watch)

    # ---- answers -------------------------------------------------------------------------------------------

    def _succeed(self, batch: list[_Waiting[I, A]], rows: list[dict[str, Any]]) -> None:
        for waiting, answer in zip(batch, self.answers([waiting.item for waiting in batch], rows), strict=True):
            if not waiting.answer.done():  # else its client went away, or its deadline passed
                waiting.answer.set_result(answer)

    def _fail(self, batch: list[_Waiting[I, A]], error: Exception) -> None:
        if self.reads and isinstance(error, Problem):
            error = error.of_a_read()
        for waiting in batch:
            if not waiting.answer.done():
                waiting.answer.set_exception(error)


def _unanswered(batch: Iterable[_Waiting[I, A]]) -> list[_Waiting[I, A]]:
    """Leave out those that were answered, or sent back, meanwhile; not those whose client went away."""
    return [waiting for waiting in batch if not waiting.answer.done() or waiting.answer.cancelled()]


def _is_of_an_item(error: Exception) -> bool:
    """Return whether a value that PostgreSQL cannot work with stopped the call: out of range, too large or too deep."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] in ("22", "54")
