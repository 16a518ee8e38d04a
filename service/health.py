"""Whether the process lives, and whether it can serve."""

import asyncio
from typing import Any

import falcon
import falcon.asgi
import psycopg

from service.db import Pool, call
from service.errors import Problem
from service.installation import last_migration_id, sql_digest
from service.responses import answer

# Together they keep within the two seconds that a probe usually waits.
_HEALTH_SECONDS_MAX = 1.5
_CLOCK_SECONDS_MAX = 0.4


class Live:
    """GET /health/live: the process answers."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer without touching the database."""
        answer(resp, {"status": "live"})


class Ready:
    """GET /health/ready: the database is reachable, and has the migrations and the sql/ of this version.

    It also tells of entries from the future, but is ready all the same: the time of some accounts is wrong, and the
    bank goes on for all others.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer 503 with the check that fails."""
        checks = await self._checks()
        ready = all(state == "ok" for name, state in checks.items() if name != "clock")
        status = falcon.HTTP_200 if ready else falcon.HTTP_503
        answer(resp, {"status": "ready" if ready else "not ready", "checks": checks}, status)

    async def _checks(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_HEALTH_SECONDS_MAX):
                [installed] = await call(self._pool, "health")
        except (psycopg.Error, Problem, TimeoutError) as error:
            return {"database": f"not reachable or not migrated: {type(error).__name__}"}
        return {
            "database": "ok",
            "migrations": "ok" if installed["migration_id"] == last_migration_id() else "run `pgteller migrate`",
            "sql": "ok" if installed["sql_digest"] == sql_digest() else "run `pgteller migrate`",
            "clock": await self._clock(),
        }

    async def _clock(self) -> str:
        """Say whether there are entries from the future; a database of an older version cannot tell."""
        try:
            async with asyncio.timeout(_CLOCK_SECONDS_MAX):
                [found] = await call(self._pool, "has_entries_from_the_future")
        except (psycopg.Error, Problem, TimeoutError) as error:
            return f"not known: {type(error).__name__}"
        if found["has_entries_from_the_future"]:
            return "entries from the future: run `pgteller correct-times`"
        return "ok"
