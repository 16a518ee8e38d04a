"""Accounts: opening one, reading one, and its balance."""

import falcon
import falcon.asgi
import msgspec

from service.db import Pool, call
from service.requests import LimitMinor, Request, Text, read_body, read_id
from service.responses import answer


class OpenAccountRequest(Request, frozen=True):
    """The arguments of bank.open_account."""

    holder_name: Text
    currency: Text
    overdraft_limit_minor: LimitMinor | None = 0
    external_id: Text | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


class OpenAccount:
    """POST /v1/accounts: bank.open_account."""

    scope = "accounts:write"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Open an account."""
        body = await read_body(req, OpenAccountRequest)
        ledger_id = req.context.principal.ledger_id
        [account] = await call(self._pool, "open_account", repeatable=False, **body.arguments(), ledger_id=ledger_id)
        answer(resp, account, falcon.HTTP_201, location=f"/v1/accounts/{account['account_id']}")


class Account:
    """GET /v1/accounts/{account_id}: bank.account."""

    scope = "accounts:read"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Read an account."""
        ledger_id = req.context.principal.ledger_id
        number = read_id(account_id, "account_id")
        [account] = await call(self._pool, "account", account_id=number, ledger_id=ledger_id)
        answer(resp, account)


class Balance:
    """GET /v1/accounts/{account_id}/balance: bank.balance."""

    scope = "accounts:read"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Read the balance of an account."""
        ledger_id = req.context.principal.ledger_id
        number = read_id(account_id, "account_id")
        [balance] = await call(self._pool, "balance", account_id=number, ledger_id=ledger_id)
        answer(resp, balance)
