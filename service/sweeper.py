"""Ends holds whose deadline has passed: a task in each worker.

Such a hold stopped counting at its deadline, so that nothing depends on when this runs, or whether. Any number of
workers may: bank.end_expired_holds lets each account be tidied by one of them.
"""

import asyncio
import contextlib
import random

import structlog

from service.config import Settings
from service.db import Pool, call

log = structlog.get_logger()

_PAUSE_SECONDS_MAX = 600.0
_ACCOUNTS_MAX = 100
"""Of one call, which keeps those accounts locked while it runs."""


class HoldSweeper:
    """The task, from the start of the server to its end; the setting 0 makes it none."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._seconds = settings.hold_sweep_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        if self._seconds:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End, also in the middle of a call: what it did not finish, another does."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        """Sweep at intervals, which grow while the database is away."""
        pause: float = self._seconds
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that workers do not all come at once
            try:
                accounts = await self._sweep()
            except Exception as error:  # whatever it is, the next time may be better
                pause = max(self._seconds, min(2 * pause, _PAUSE_SECONDS_MAX))
                log.warning("expired holds not ended", error=str(error), pause_seconds_max=pause)
            else:
                pause = self._seconds
                if accounts:
                    log.info("expired holds ended", accounts=accounts)

    async def _sweep(self) -> int:
        """End all that have expired, and return on how many accounts."""
        accounts = 0
        while True:
            [swept] = await call(self._pool, "end_expired_holds", accounts_max=_ACCOUNTS_MAX)
            ended: int = swept["end_expired_holds"]
            accounts += ended
            if ended < _ACCOUNTS_MAX:
                return accounts
