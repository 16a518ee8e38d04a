"""Stripes: spreading a hot account over several rows."""

from typing import Annotated

import falcon.asgi
import msgspec

from service.db import Pool, call
from service.requests import Request, read_body, read_id
from service.responses import answer


class StripeAccountRequest(Request, frozen=True):
    """The arguments of bank.stripe_account that are not in the path."""

    stripes: Annotated[int, msgspec.Meta(ge=1, le=64)]


class StripeAccount:
    """PUT /v1/accounts/{account_id}/stripes: bank.stripe_account."""

    scope = "admin"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_put(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Spread an account over this many rows."""
        ledger_id = req.context.principal.ledger_id
        body = await read_body(req, StripeAccountRequest)
        number = read_id(account_id, "account_id")
        [account] = await call(self._pool, "stripe_account", account_id=number, **body.arguments(), ledger_id=ledger_id)
        answer(resp, account)
