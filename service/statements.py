"""Statements: the entries of an account, a page at a time, newest first."""

import falcon.asgi

from service.db import Pool, read
from service.pages import Pages
from service.requests import read_id
from service.responses import answer

ENTRIES = Pages(column="version", mark="v")


class Statement:
    """GET /v1/accounts/{account_id}/entries: bank.statement."""

    scope = "accounts:read"
    reads_query = True

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Read a page of entries; next_cursor is null on the last page."""
        page = ENTRIES.read(req)
        number, ledger_id = read_id(account_id, "account_id"), req.context.principal.ledger_id
        entries = await read(
            self._pool,
            "statement",
            account_id=number,
            before_version=page.before,
            page_size=page.size,
            ledger_id=ledger_id,
        )
        answer(resp, {"entries": entries, "next_cursor": ENTRIES.next_cursor(entries, page)})
