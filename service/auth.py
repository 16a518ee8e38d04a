"""Who is calling: the API key of a request, and whether it has the scope of the resource."""

import time
from typing import Any, NamedTuple

import falcon.asgi

from service.coalescer import Coalescer
from service.config import Settings
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


class Principals(Coalescer[bytes, Principal | None]):
    """Keys that are looked up together are one call of bank.principals, and equal keys one look-up."""

    function = "principals"
    reads = True
    flushes_max = 1

    def statement(self, ledger_id: int, items: list[bytes]) -> tuple[str, dict[str, Any]]:
        """Ask for each key once. A key tells its ledger, so that ledger_id means nothing here."""
        return "principals", {"key_digests": [f"\\x{key_digest.hex()}" for key_digest in dict.fromkeys(items)]}

    def answers(self, items: list[bytes], rows: list[dict[str, Any]]) -> list[Principal | None]:
        """Return the principal of each key, in order; None for one that is not known."""
        principals = dict(zip(dict.fromkeys(items), map(_principal, rows), strict=True))
        return [principals[key_digest] for key_digest in items]


class Authentication:
    """Middleware: sets req.context.principal for every resource that names a scope, or one for each method.

    What a look-up found is trusted for key_cache_seconds, so that authentication does not cost each request a round
    trip: a revoked key is refused after that time at the latest, an expired one at once; a new key that was tried
    before it existed is known after that time.
    """

    def __init__(self, principals: Principals, settings: Settings) -> None:
        self._principals = principals
        self._cache_seconds = settings.key_cache_seconds
        self._cache: dict[bytes, tuple[float, Principal | None]] = {}

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: Any, params: dict[str, Any]
    ) -> None:
        """Refuse the request before its body is read."""
        scope = getattr(resource, "scope", None)
        if isinstance(scope, dict):
            scope = scope.get(req.method, "admin")  # of a method that is not there, nobody needs to know
        if scope is not None and req.method != "OPTIONS":
            key_digest = _key_digest(req.get_header("Authorization") or "")
            looked_up_at, principal = self._cache.get(key_digest, (float("-inf"), None))
            if time.monotonic() - looked_up_at > self._cache_seconds:
                principal = await self._look_up(key_digest)
            if principal is None or time.time() >= principal.expires_at:
                raise _unauthenticated()
            principal.require(scope)
            req.context.principal = principal

    async def _look_up(self, key_digest: bytes) -> Principal | None:
        began_at = time.monotonic()
        principal = await self._principals.submit(0, key_digest)
        if key_digest not in self._cache and len(self._cache) >= _CACHED_KEYS_MAX:
            self._cache.clear()
        self._cache[key_digest] = (began_at, principal)
        return principal


def _principal(row: dict[str, Any]) -> Principal | None:
    if row["ledger_id"] is None:
        return None
    expires_at = row["expires_at"].timestamp() if row["expires_at"] else float("inf")
    return Principal(row["ledger_id"], row["name"], frozenset(row["scopes"]), expires_at)


def _key_digest(header: str) -> bytes:
    scheme, _, key = header.partition(" ")
    key = key.strip(" \t")
    if scheme.lower() != "bearer" or not key:
        raise _unauthenticated()
    return digest(key)


def _unauthenticated() -> Problem:
    return Problem("unauthenticated", headers={"WWW-Authenticate": "Bearer"})
