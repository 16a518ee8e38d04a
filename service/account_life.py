"""An account's life: frozen, closed and open again, its limits, and the history of all that.

Who changed something is the name of the API key; a body cannot say it.
"""

from typing import Any

import falcon.asgi

from service.db import Pool, call, read
from service.pages import Pages
from service.requests import Number, Request, SignedMinor, Text, read_body, read_id, read_name
from service.responses import answer

CHANGES = Pages(column="change_number", mark="c")


class FreezeAccountRequest(Request, frozen=True):
    """The arguments of bank.freeze_account that are not in the path or the key."""

    debits: bool = True
    credits: bool = True
    reason: Text | None = None


class ChangeRequest(Request, frozen=True):
    """The arguments of bank.unfreeze_account, close_account and reopen_account that are not in the path or the key."""

    reason: Text | None = None


class SetLimitRequest(Request, frozen=True):
    """The arguments of bank.set_limit that are not in the path or the key."""

    amount_max_minor: SignedMinor | None = None
    count_max: Number | None = None
    reason: Text | None = None


class Change:
    """What the changes of an account share: the scope, who did it, and the answer."""

    scope = "accounts:write"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def change(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, function: str, account_id: str, **arguments: Any
    ) -> None:
        """Call the function, and answer with the account as it is now."""
        number, principal = read_id(account_id, "account_id"), req.context.principal
        [account] = await call(
            self._pool,
            function,
            account_id=number,
            **arguments,
            changed_by=principal.name,
            ledger_id=principal.ledger_id,
        )
        answer(resp, account)


class FreezeAccount(Change):
    """POST /v1/accounts/{account_id}/freeze: bank.freeze_account."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Stop debits, credits or both."""
        body = await read_body(req, FreezeAccountRequest)
        await self.change(req, resp, "freeze_account", account_id, **body.arguments())


class UnfreezeAccount(Change):
    """POST /v1/accounts/{account_id}/unfreeze: bank.unfreeze_account."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Let postings pass again."""
        body = await read_body(req, ChangeRequest)
        await self.change(req, resp, "unfreeze_account", account_id, **body.arguments())


class CloseAccount(Change):
    """POST /v1/accounts/{account_id}/close: bank.close_account."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Close an account that is empty."""
        body = await read_body(req, ChangeRequest)
        await self.change(req, resp, "close_account", account_id, **body.arguments())


class ReopenAccount(Change):
    """POST /v1/accounts/{account_id}/reopen: bank.reopen_account."""

    scope = "admin"

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Open a closed account again."""
        body = await read_body(req, ChangeRequest)
        await self.change(req, resp, "reopen_account", account_id, **body.arguments())


class SetLimit(Change):
    """PUT /v1/accounts/{account_id}/limits/{limit_kind}: bank.set_limit.

    The overdraft limit is one of them, and needs no scope more: who opens an account sets its overdraft limit too.
    """

    async def on_put(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str, limit_kind: str
    ) -> None:
        """Set a limit, or take it away with a body that has neither amount nor count."""
        kind = read_name(limit_kind, "limit_kind")
        body = await read_body(req, SetLimitRequest)
        await self.change(req, resp, "set_limit", account_id, limit_kind=kind, **body.arguments())


class Limits:
    """GET /v1/accounts/{account_id}/limits: bank.limits."""

    scope = "accounts:read"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Read the limits and what is used of them."""
        number, ledger_id = read_id(account_id, "account_id"), req.context.principal.ledger_id
        answer(resp, {"limits": await read(self._pool, "limits", account_id=number, ledger_id=ledger_id)})


class AccountChanges:
    """GET /v1/accounts/{account_id}/changes: bank.account_changes."""

    scope = "accounts:read"
    reads_query = True

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Read a page of changes; next_cursor is null on the last page."""
        page = CHANGES.read(req)
        number, ledger_id = read_id(account_id, "account_id"), req.context.principal.ledger_id
        changes = await read(
            self._pool,
            "account_changes",
            account_id=number,
            before_change_number=page.before,
            page_size=page.size,
            ledger_id=ledger_id,
        )
        answer(resp, {"changes": changes, "next_cursor": CHANGES.next_cursor(changes, page)})
