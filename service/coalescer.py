"""Requests that wait for the database at the same moment are sent to it as one call.

A request that finds a free place is sent as soon as the event loop has nothing else to read, so nobody waits on a
timer. While `coalescer_flushes_max` calls are in flight the others gather, and the next call takes them all. Each gets
the answer that it would have got alone, and from a call that began after the request came in: what was acknowledged
before is seen.

When the database fails, every request of the call fails with it: what became of a posting is not known, and a retry
with the same key posts at most once. A client that goes away takes nothing back. A full queue is answered with 503.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import ClassVar, Generic, NamedTuple, TypeVar

import psycopg

from service import metrics
from service.config import Settings
from service.db import Pool
from service.errors import Problem

_ITEMS_MAX = 500

I = TypeVar("I")  # noqa: E741 - of an item, as in T
A = TypeVar("A")


class _Waiting(NamedTuple, Generic[I, A]):
    item: I
    answer: "asyncio.Future[A]"
    since: float


class Coalescer(ABC, Generic[I, A]):
    """The queues of one worker, one for each ledger that has requests waiting."""

    function: ClassVar[str]
    """The function of schema bank that takes many items; the figures are labelled with it."""
    flushes_max: ClassVar[int | None] = None
    """The most calls in flight, when fewer than the setting are better."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.pool = pool
        self._flushes_max = min(settings.coalescer_flushes_max, self.flushes_max or settings.coalescer_flushes_max)
        self._queue_max = settings.coalescer_queue_max
        self._queues: dict[int, deque[_Waiting[I, A]]] = {}
        self._queued = 0
        self._flushes: set[asyncio.Task[None]] = set()
        self._gathering: asyncio.Handle | None = None
        self._figures = metrics.CoalescerFigures(self.function)

    @abstractmethod
    async def call(self, ledger_id: int, items: list[I]) -> list[A]:
        """Send the items as one call, and return the answers in their order."""

    async def submit(self, ledger_id: int, item: I) -> A:
        """Return the answer to the item; raises Problem overloaded, or what its call raised."""
        if not self._flushes_max:
            [answer] = await self.call(ledger_id, [item])
            return answer
        if self._queued >= self._queue_max:
            self._figures.refused.inc()
            raise Problem("overloaded")
        loop = asyncio.get_running_loop()
        waiting: _Waiting[I, A] = _Waiting(item, loop.create_future(), time.perf_counter())
        self._queues.setdefault(ledger_id, deque()).append(waiting)
        self._queued += 1
        if len(self._flushes) == self._flushes_max:
            self._figures.queued.set(self._queued)
        elif self._gathering is None:
            self._gather()
        return await waiting.answer

    async def drain(self) -> None:
        """Wait until everything that was taken is answered; called when the server stops."""
        while self._queued or self._flushes:
            self._send()
            await asyncio.wait(self._flushes)

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
            task = asyncio.create_task(self._flush(ledger_id, batch))
            self._flushes.add(task)
            task.add_done_callback(self._flushed)

    def _flushed(self, task: "asyncio.Task[None]") -> None:
        self._flushes.discard(task)
        if self._queued and self._gathering is None:
            self._gather()

    async def _flush(self, ledger_id: int, batch: list[_Waiting[I, A]]) -> None:
        with self._figures.flush(len(batch), self._queued, batch[0].since):
            await self._answer(ledger_id, batch)

    async def _answer(self, ledger_id: int, batch: list[_Waiting[I, A]]) -> None:
        try:
            answers = await self.call(ledger_id, [waiting.item for waiting in batch])
        except Exception as error:
            if len(batch) == 1 or not _is_of_an_item(error):
                _fail(batch, error)
                return
            # Nothing was done for any of them. One is at fault, and halves find it in few calls; order is kept.
            middle = len(batch) // 2
            await self._answer(ledger_id, batch[:middle])
            await self._answer(ledger_id, batch[middle:])
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():  # else its client went away
                    waiting.answer.set_result(answer)


def _is_of_an_item(error: Exception) -> bool:
    """Return whether a value that PostgreSQL cannot work with stopped the call: out of range, too large or too deep."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] in ("22", "54")


def _fail(batch: list[_Waiting[I, A]], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
