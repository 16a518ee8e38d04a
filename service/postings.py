"""Moving money: credit, debit and transfer."""

from typing import Any, NamedTuple

import falcon.asgi

from service.coalescer import Coalescer
from service.db import Pool, call
from service.locked_rows import ACCOUNT, SETTLEMENT, Row
from service.requests import (
    AccountId,
    AmountMinor,
    PostingRequest,
    read_body,
    read_dry_run,
    read_id,
    read_idempotency_key,
)
from service.responses import answer_posting


class CreditRequest(PostingRequest, frozen=True):
    """The arguments of bank.credit that are not in the path or a header."""

    amount_minor: AmountMinor


class DebitRequest(PostingRequest, frozen=True):
    """The arguments of bank.debit that are not in the path or a header."""

    amount_minor: AmountMinor
    beneficiary_account_id: AccountId | None = None


class TransferRequest(PostingRequest, frozen=True):
    """The arguments of bank.transfer that are not in a header."""

    debit_account_id: AccountId
    credit_account_id: AccountId
    amount_minor: AmountMinor


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
    reads = False

    def statement(self, ledger_id: int, items: list[Item]) -> tuple[str, dict[str, Any]]:
        """Return bank.post for many, and its own function for one."""
        if len(items) == 1:
            function, arguments = items[0].singular()
            return function, {**arguments, "ledger_id": ledger_id}
        types, debits, credits_, amounts, keys, descriptions, external_ids, metadatas = zip(*items, strict=True)
        return "post", {
            "transaction_types": list(types),
            "debit_account_ids": list(debits),
            "credit_account_ids": list(credits_),
            "amounts_minor": list(amounts),
            "idempotency_keys": list(keys),
            "descriptions": _given(descriptions, None),
            "external_ids": _given(external_ids, None),
            "metadatas": _given(metadatas, "{}"),
            "ledger_id": ledger_id,
        }

    def answers(self, items: list[Item], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows, which are in the order of the items."""
        return rows

    def locks(self, ledger_id: int, item: Item) -> list[Row]:
        """Return both accounts, one of which may be the settlement account."""
        sides = (item.debit_account_id, item.credit_account_id)
        return [
            Row(ledger_id, ACCOUNT, side) if side is not None else Row(ledger_id, SETTLEMENT, other or 0)
            for side, other in (sides, sides[::-1])
        ]

    async def dry_run(self, ledger_id: int, item: Item) -> list[dict[str, Any]]:
        """Say what the item would do, alone."""
        function, arguments = item.singular()
        return await call(self.pool, function, dry_run=True, **arguments, ledger_id=ledger_id)


def _given(values: tuple[str | None, ...], default: str | None) -> list[str | None] | None:
    """Return the values, or null when they are all what null stands for, as nearly always: in fewer bytes."""
    return None if values.count(default) == len(values) else list(values)


class CoalescedPosting:
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
        ledger_id = req.context.principal.ledger_id
        if read_dry_run(req):
            [posting] = await self._postings.dry_run(ledger_id, item)
            answer_posting(resp, posting, dry_run=True)
        else:
            answer_posting(resp, await self._postings.submit(ledger_id, item))


class Credit(CoalescedPosting):
    """POST /v1/accounts/{account_id}/credit: bank.credit."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Credit the account."""
        number = read_id(account_id, "account_id")
        body = await read_body(req, CreditRequest)
        await self.post(req, resp, body, "credit", debit_account_id=None, credit_account_id=number)


class Debit(CoalescedPosting):
    """POST /v1/accounts/{account_id}/debit: bank.debit."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Debit the account."""
        number = read_id(account_id, "account_id")
        body = await read_body(req, DebitRequest)
        await self.post(
            req, resp, body, "debit", debit_account_id=number, credit_account_id=body.beneficiary_account_id
        )


class Transfer(CoalescedPosting):
    """POST /v1/transfers: bank.transfer."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Move money from one account to another."""
        body = await read_body(req, TransferRequest)
        sides = {"debit_account_id": body.debit_account_id, "credit_account_id": body.credit_account_id}
        await self.post(req, resp, body, "transfer", **sides)


class Posting:
    """What the other resources that move money share: each posting is a call of its own."""

    scope = "transactions:write"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def post(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        function: str,
        *,
        collection: str = "/v1/transactions",
        **arguments: Any,
    ) -> None:
        """Call the function, and answer with the outcome."""
        key, ledger_id, dry_run = read_idempotency_key(req), req.context.principal.ledger_id, read_dry_run(req)
        [posting] = await call(
            self._pool, function, dry_run=dry_run, **arguments, idempotency_key=key, ledger_id=ledger_id
        )
        answer_posting(resp, posting, dry_run=dry_run, collection=collection)
