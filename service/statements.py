"""Statements: the entries of an account, a page at a time, newest first."""

import base64
import binascii

import falcon.asgi

from service.db import Pool, call
from service.errors import invalid
from service.requests import Request, Text, read_id, read_query
from service.responses import answer

_LIMIT_MAX = 1000


class StatementQuery(Request, frozen=True):
    """The page: its size, and the cursor that the page before it gave."""

    limit: Text = "50"
    cursor: Text | None = None


class Statement:
    """GET /v1/accounts/{account_id}/entries: bank.statement."""

    scope = "accounts:read"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Read a page of entries; next_cursor is null on the last page."""
        query = read_query(req, StatementQuery)
        limit = read_id(query.limit, "limit", _LIMIT_MAX)
        entries = await call(
            self._pool,
            "statement",
            account_id=read_id(account_id, "account_id"),
            before_version=_version(query.cursor) if query.cursor is not None else None,
            page_size=limit,
            ledger_id=req.context.principal.ledger_id,
        )
        # Versions have no gaps, so the entry with version 1 is the first there ever was.
        more = len(entries) == limit and entries[-1]["version"] > 1
        answer(resp, {"entries": entries, "next_cursor": _cursor(entries[-1]["version"]) if more else None})


def _cursor(version: int) -> str:
    """Return the cursor of the page before this version, encoded so that clients do not build on it."""
    return base64.urlsafe_b64encode(f"v{version}".encode()).decode().rstrip("=")


def _version(cursor: str) -> int:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        text = ""
    version = read_id(text[1:], "cursor") if text.startswith("v") else None
    # The decoder passes over characters that are not of its alphabet.
    if version is None or _cursor(version) != cursor:
        raise invalid("cursor", "is not one that a page gave")
    return version
