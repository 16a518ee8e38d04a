"""Who is calling: the API key of a request, and whether it has the scope of the resource."""

import time
from typing import Any, NamedTuple

import falcon.asgi

from service.config import Settings
from service.db import Pool, call
from service.errors import Problem
from service.keys import digest

_CACHED_KEYS_MAX = 10_000


class Principal(NamedTuple):
    """The caller: the ledger of the key, its name, and what it may do there."""

    ledger_id: int
    name: str
    scopes: frozenset[str]
    expires_at: float

    def require(self, scope: str) -> None:
        """Raise insufficient_scope unless the key has the scope; admin has them all."""
        if scope not in self.scopes and "admin" not in self.scopes:
            raise Problem("insufficient_scope", required_scope=scope)


class Authentication:
    """Middleware: sets req.context.principal for every resource that names a scope, or one for each method.

    A key that was looked up is trusted for key_cache_seconds, so that authentication does not cost each request a
    round trip: a revoked key is refused after that time at the latest, an expired one at once.
    """

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._cache_seconds = settings.key_cache_seconds
        self._cache: dict[bytes, tuple[float, Principal]] = {}

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: Any, params: dict[str, Any]
    ) -> None:
        """Refuse the request before its body is read."""
        scope = getattr(resource, "scope", None)
        if isinstance(scope, dict):
            scope = scope.get(req.method, "admin")  # of a method that is not there, nobody needs to know
        if scope is not None:
            key_digest = _key_digest(req.get_header("Authorization") or "")
            cached_at, principal = self._cache.get(key_digest, (float("-inf"), None))
            if principal is None or time.monotonic() - cached_at > self._cache_seconds:
                principal = await self._look_up(key_digest)
            if time.time() >= principal.expires_at:
                raise _unauthenticated()
            principal.require(scope)
            req.context.principal = principal

    async def _look_up(self, key_digest: bytes) -> Principal:
        [row] = await call(self._pool, "authenticate", key_digest=key_digest)
        if row["ledger_id"] is None:
            self._cache.pop(key_digest, None)
            raise _unauthenticated()
        expires_at = row["expires_at"].timestamp() if row["expires_at"] else float("inf")
        principal = Principal(row["ledger_id"], row["name"], frozenset(row["scopes"]), expires_at)
        if len(self._cache) >= _CACHED_KEYS_MAX:
            self._cache.clear()
        self._cache[key_digest] = (time.monotonic(), principal)
        return principal


def _key_digest(header: str) -> bytes:
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise _unauthenticated()
    return digest(key.strip())


def _unauthenticated() -> Problem:
    return Problem("unauthenticated", headers={"WWW-Authenticate": "Bearer"})
