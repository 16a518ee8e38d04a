"""Postings that wait for the database at the same moment are sent as one call of bank.post.

A posting that finds a free place is sent at once, so nobody waits on a timer. While `coalescer_flushes_max` calls are
in flight the others gather, and the next call takes them all. Each gets the outcome that it would have got alone.

When the database fails, every posting of the call fails with it: what became of them is not known, and a retry with the
same key posts at most once. A client that goes away takes nothing back. When the queue is full the answer is 503.
"""

import asyncio
from collections import deque
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from service.config import Settings
from service.db import Pool, call
from service.errors import Problem

_ITEMS_MAX = 500


class Item(NamedTuple):
    """One posting: its arguments of bank.post, in their order."""

    transaction_type: str
    debit_account_id: int | None
    credit_account_id: int | None
    amount_minor: int
    idempotency_key: str
    description: str | None
    external_id: str | None
    metadata: str

    def singular(self) -> tuple[str, dict[str, Any]]:
        """Return the function that posts this item alone, which is faster than a batch of one, and its arguments."""
        arguments = self._asdict()
        function = arguments.pop("transaction_type")
        if function == "credit":
            arguments["account_id"] = arguments.pop("credit_account_id")
            del arguments["debit_account_id"]
        elif function == "debit":
            arguments["account_id"] = arguments.pop("debit_account_id")
            arguments["beneficiary_account_id"] = arguments.pop("credit_account_id")
        return function, arguments


class _Waiting(NamedTuple):
    item: Item
    outcome: "asyncio.Future[dict[str, Any]]"


class Coalescer:
    """The queues of one worker, one for each ledger that has postings waiting."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._flushes_max = settings.coalescer_flushes_max
        self._queue_max = settings.coalescer_queue_max
        self._queues: dict[int, deque[_Waiting]] = {}
        self._waiting = 0
        self._flushes: set[asyncio.Task[None]] = set()

    async def post(self, ledger_id: int, item: Item) -> dict[str, Any]:
        """Return the posting of the item; raises Problem overloaded, or what its call raised."""
        if not self._flushes_max:
            [row] = await self._call(ledger_id, [item])
            return row
        if self._waiting >= self._queue_max:
            raise Problem("overloaded")
        outcome: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(ledger_id, deque()).append(_Waiting(item, outcome))
        self._waiting += 1
        self._send()
        return await outcome

    async def drain(self) -> None:
        """Wait until everything that was taken is posted; called when the server stops."""
        while self._flushes:
            await asyncio.wait(self._flushes)

    def _send(self) -> None:
        """Start calls while there is something to send and a place to send it."""
        while self._queues and len(self._flushes) < self._flushes_max:
            ledger_id, queue = next(iter(self._queues.items()))
            batch = [queue.popleft() for _ in range(min(len(queue), _ITEMS_MAX))]
            self._waiting -= len(batch)
            del self._queues[ledger_id]
            if queue:
                self._queues[ledger_id] = queue  # at the end: ledgers take turns
            task = asyncio.create_task(self._flush(ledger_id, batch))
            self._flushes.add(task)
            task.add_done_callback(self._flushed)

    def _flushed(self, task: "asyncio.Task[None]") -> None:
        self._flushes.discard(task)
        self._send()

    async def _flush(self, ledger_id: int, batch: list[_Waiting]) -> None:
        try:
            rows = await self._call(ledger_id, [waiting.item for waiting in batch])
        except psycopg.DataError as error:
            if len(batch) == 1:
                _fail(batch, error)
            for waiting in batch[len(batch) == 1 :]:  # one of them is at fault: each is told apart by going alone
                await self._flush(ledger_id, [waiting])
        except Exception as error:
            _fail(batch, error)
        else:
            for waiting, row in zip(batch, rows, strict=True):
                if not waiting.outcome.done():  # else its client went away
                    waiting.outcome.set_result(row)

    async def _call(self, ledger_id: int, items: list[Item]) -> list[dict[str, Any]]:
        if len(items) == 1:
            function, arguments = items[0].singular()
            return await call(self._pool, function, **arguments, ledger_id=ledger_id)
        types, debits, credits_, amounts, keys, descriptions, external_ids, metadatas = zip(*items, strict=True)
        return await call(
            self._pool,
            "post",
            transaction_types=list(types),
            debit_account_ids=list(debits),
            credit_account_ids=list(credits_),
            amounts_minor=list(amounts),
            idempotency_keys=list(keys),
            descriptions=list(descriptions),
            external_ids=list(external_ids),
            # Nearly always all are empty, and null says so in fewer bytes.
            metadatas=[Jsonb(text, str) for text in metadatas] if any(text != "{}" for text in metadatas) else None,
            ledger_id=ledger_id,
        )


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.outcome.done():
            waiting.outcome.set_exception(error)
