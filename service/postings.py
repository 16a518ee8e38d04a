"""Moving money: credit, debit and transfer."""

from typing import Any

import falcon.asgi
import msgspec

from service.db import Pool, call
from service.requests import AccountId, AmountMinor, Request, Text, read_body, read_id, read_idempotency_key
from service.responses import answer_posting


class CreditRequest(Request, frozen=True):
    """The arguments of bank.credit that are not in the path or a header."""

    amount_minor: AmountMinor
    description: Text | None = None
    external_id: Text | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


class DebitRequest(Request, frozen=True):
    """The arguments of bank.debit that are not in the path or a header."""

    amount_minor: AmountMinor
    beneficiary_account_id: AccountId | None = None
    description: Text | None = None
    external_id: Text | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


class TransferRequest(Request, frozen=True):
    """The arguments of bank.transfer that are not in a header."""

    debit_account_id: AccountId
    credit_account_id: AccountId
    amount_minor: AmountMinor
    description: Text | None = None
    external_id: Text | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


class Posting:
    """What credit, debit and transfer share: the scope, the key, and the answer."""

    scope = "transactions:write"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, function: str, arguments: dict[str, Any]
    ) -> None:
        """Call the posting function and answer with its outcome."""
        key = read_idempotency_key(req)
        ledger_id = req.context.principal.ledger_id
        [posting] = await call(self._pool, function, **arguments, idempotency_key=key, ledger_id=ledger_id)
        answer_posting(resp, posting)


class Credit(Posting):
    """POST /v1/accounts/{account_id}/credit: bank.credit."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Credit the account."""
        number = read_id(account_id, "account_id")
        body = await read_body(req, CreditRequest)
        await self.post(req, resp, "credit", {"account_id": number, **body.arguments()})


class Debit(Posting):
    """POST /v1/accounts/{account_id}/debit: bank.debit."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Debit the account."""
        number = read_id(account_id, "account_id")
        body = await read_body(req, DebitRequest)
        await self.post(req, resp, "debit", {"account_id": number, **body.arguments()})


class Transfer(Posting):
    """POST /v1/transfers: bank.transfer."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Move money from one account to another."""
        body = await read_body(req, TransferRequest)
        await self.post(req, resp, "transfer", body.arguments())
