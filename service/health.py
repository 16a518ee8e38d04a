"""Whether the process lives, and whether it can serve."""

import asyncio
import time
from dataclasses import replace

import falcon
import falcon.asgi
import psycopg

from service.config import Settings
from service.db import Pool, send
from service.errors import Problem
from service.installation import NOT_INSTALLED, Installed, last_migration_id, sql_digest
from service.responses import answer

_SECONDS_MAX = 0.8
"""For all checks: a probe often waits no longer than a second."""
_LOCK_TIMEOUT_MS_MAX = 200

_TOLD = ("version", "clock")
"""Checks that do not count."""

_NOT_MIGRATED = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
    psycopg.errors.InsufficientPrivilege,
)


class Live:
    """GET /health/live: the process answers."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer without touching the database."""
        answer(resp, {"status": "live"})


class Ready:
    """GET /health/ready: the database is reachable, takes writes, and has what this version works with.

    It also tells of a newer version in the database, on which this one works, and of entries from the future, but is
    ready all the same: the time of some accounts is wrong, and the bank goes on for all others.
    It has a connection of its own, so that what occupies the others does not hold it up, and probes at the same time
    share an answer.
    """

    def __init__(self, settings: Settings) -> None:
        # What may wait for a lock for longer would not even be sent within so short a time.
        hurried = replace(settings, lock_timeout_ms=min(settings.lock_timeout_ms, _LOCK_TIMEOUT_MS_MAX))
        self.pool = Pool(hurried, connections_min=0, connections_max=1, application_name="pgteller readiness")
        self._checking: asyncio.Task[dict[str, str]] | None = None

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer 503 with the check that fails."""
        if self._checking is None:
            self._checking = asyncio.create_task(self._checks())
        checking = self._checking
        try:
            checks = await asyncio.shield(checking)
        finally:
            if self._checking is checking:
                self._checking = None
        ready = all(state == "ok" for name, state in checks.items() if name not in _TOLD)
        status = falcon.HTTP_200 if ready else falcon.HTTP_503
        answer(resp, {"status": "ready" if ready else "not ready", "checks": checks}, status)

    async def _checks(self) -> dict[str, str]:
        until = time.monotonic() + _SECONDS_MAX
        try:
            [installed] = await send(self.pool, "health", {}, answer_by=until)
        except psycopg.Error as error:
            fault = "not migrated" if isinstance(error, _NOT_MIGRATED) else "does not answer"
            return {"database": f"{fault}: {type(error).__name__}"}
        except Problem:
            return {"database": "not reachable, or does not answer in time"}
        return {
            "database": "ok",
            **_version(Installed.of(installed)),
            "writable": await self._writable(until),
            "clock": await self._clock(until),
        }

    async def _writable(self, until: float) -> str:
        """Say why nothing can be written, if so; a database of an older version cannot tell."""
        try:
            [found] = await send(self.pool, "read_only_reason", {}, answer_by=until, resets=True)
        except (psycopg.Error, Problem) as error:
            return f"not known: {type(error).__name__}"
        reason: str | None = found["read_only_reason"]
        if reason is None:
            return "ok"
        await self.pool.renew()  # where the URL has several servers, one of them may be the primary
        return f"the database takes no writes: {reason}"

    async def _clock(self, until: float) -> str:
        """Say whether there are entries from the future; a database of an older version cannot tell."""
        try:
            [found] = await send(self.pool, "has_entries_from_the_future", {}, answer_by=until)
        except (psycopg.Error, Problem) as error:
            return f"not known: {type(error).__name__}"
        if found["has_entries_from_the_future"]:
            return "entries from the future: run `pgteller correct-times`"
        return "ok"


def _version(installed: Installed | None) -> dict[str, str]:
    """Compare what is installed with what this version was built with."""
    if installed is None:
        return {"migrations": NOT_INSTALLED, "sql": NOT_INSTALLED}
    if installed.fault is None:
        version = "newest" if installed.is_newest else "a newer version is installed"
        return {"migrations": "ok", "sql": "ok", "version": version}
    return {
        "migrations": "ok" if installed.migration_id == last_migration_id() else installed.fault,
        "sql": "ok" if installed.sql_digest == sql_digest() else installed.fault,
    }
