"""Moving money: credit, debit and transfer."""

from typing import Any, NamedTuple

import falcon.asgi
import msgspec

from service.coalescer import Coalescer
from service.db import call
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


class Item(NamedTuple):
    """One posting: its arguments of bank.post, in their order."""

    transaction_type: str
    debit_account_id: int | None
    credit_account_id: int | None
    amount_minor: int
    idempotency_key: str
    description: str | None
    external_id: str | None
    metadata: str

    def singular(self) -> tuple[str, dict[str, Any]]:
        """Return the function that posts this item alone, which is faster than a batch of one, and its arguments."""
        arguments = self._asdict()
        function = arguments.pop("transaction_type")
        if function == "credit":
            arguments["account_id"] = arguments.pop("credit_account_id")
            del arguments["debit_account_id"]
        elif function == "debit":
            arguments["account_id"] = arguments.pop("debit_account_id")
            arguments["beneficiary_account_id"] = arguments.pop("credit_account_id")
        return function, arguments


class Postings(Coalescer[Item, dict[str, Any]]):
    """Postings that wait together are one call of bank.post; each gets the outcome that it would have got alone."""

    function = "post"

    async def call(self, ledger_id: int, items: list[Item]) -> list[dict[str, Any]]:
        """Post the items in order."""
        if len(items) == 1:
            function, arguments = items[0].singular()
            return await call(self.pool, function, **arguments, ledger_id=ledger_id)
        types, debits, credits_, amounts, keys, descriptions, external_ids, metadatas = zip(*items, strict=True)
        return await call(
            self.pool,
            "post",
            transaction_types=list(types),
            debit_account_ids=list(debits),
            credit_account_ids=list(credits_),
            amounts_minor=list(amounts),
            idempotency_keys=list(keys),
            descriptions=_given(descriptions, None),
            external_ids=_given(external_ids, None),
            metadatas=_given(metadatas, "{}"),
            ledger_id=ledger_id,
        )


def _given(values: tuple[str | None, ...], default: str | None) -> list[str | None] | None:
    """Return the values, or null when they are all what null stands for, as nearly always: in fewer bytes."""
    return None if values.count(default) == len(values) else list(values)


class Posting:
    """What credit, debit and transfer share: the scope, the key, and the answer."""

    scope = "transactions:write"

    def __init__(self, postings: Postings) -> None:
        self._postings = postings

    async def post(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        body: CreditRequest | DebitRequest | TransferRequest,
        transaction_type: str,
        *,
        debit_account_id: int | None,
        credit_account_id: int | None,
    ) -> None:
        """Post, together with what waits at the same moment, and answer with the outcome."""
        item = Item(
            transaction_type=transaction_type,
            debit_account_id=debit_account_id,
            credit_account_id=credit_account_id,
            amount_minor=body.amount_minor,
            idempotency_key=read_idempotency_key(req),
            description=body.description,
            external_id=body.external_id,
            metadata=bytes(body.metadata).decode(),
        )
        answer_posting(resp, await self._postings.submit(req.context.principal.ledger_id, item))


class Credit(Posting):
    """POST /v1/accounts/{account_id}/credit: bank.credit."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Credit the account."""
        number = read_id(account_id, "account_id")
        body = await read_body(req, CreditRequest)
        await self.post(req, resp, body, "credit", debit_account_id=None, credit_account_id=number)


class Debit(Posting):
    """POST /v1/accounts/{account_id}/debit: bank.debit."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Debit the account."""
        number = read_id(account_id, "account_id")
        body = await read_body(req, DebitRequest)
        await self.post(
            req, resp, body, "debit", debit_account_id=number, credit_account_id=body.beneficiary_account_id
        )


class Transfer(Posting):
    """POST /v1/transfers: bank.transfer."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Move money from one account to another."""
        body = await read_body(req, TransferRequest)
        sides = {"debit_account_id": body.debit_account_id, "credit_account_id": body.credit_account_id}
        await self.post(req, resp, body, "transfer", **sides)
