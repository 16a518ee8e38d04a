"""The other ways in which money moves: legs, exchange, sweep, reversal, to another ledger; and explaining them."""

from typing import Annotated, Any

import falcon.asgi
import msgspec

from service.db import Pool, call
from service.errors import Problem
from service.postings import Posting
from service.requests import (
    AccountId,
    AmountMinor,
    Number,
    PostingRequest,
    Request,
    SignedMinor,
    read_body,
    read_id,
)
from service.responses import answer

# A JSON number may have been a float on its way; this string is what numeric(…) takes as it stands.
Rate = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,18}(\.[0-9]{1,100})?\Z")]


class Leg(Request, frozen=True):
    """A debit, less than zero, or a credit: an element of each array of bank.post_legs."""

    account_id: AccountId
    amount_minor: SignedMinor


class Condition(Request, frozen=True, omit_defaults=True):
    """What must hold of an account, each part optional."""

    account_id: AccountId
    balance_at_least_minor: SignedMinor | None = None
    balance_at_most_minor: SignedMinor | None = None
    version: Number | None = None


class PostLegsRequest(PostingRequest, frozen=True):
    """The arguments of bank.post_legs that are not in a header."""

    legs: Annotated[list[Leg], msgspec.Meta(min_length=2, max_length=1000)]
    conditions: Annotated[list[Condition], msgspec.Meta(max_length=1000)] = msgspec.field(default_factory=list)

    def arguments(self) -> dict[str, Any]:
        """Return the legs as two arrays, the conditions as JSON."""
        arguments = super().arguments()
        del arguments["legs"]
        arguments["account_ids"] = [leg.account_id for leg in self.legs]
        arguments["amounts_minor"] = [leg.amount_minor for leg in self.legs]
        arguments["conditions"] = msgspec.json.encode(self.conditions).decode()
        return arguments


class ExchangeRequest(PostingRequest, frozen=True):
    """The arguments of bank.exchange that are not in a header."""

    debit_account_id: AccountId
    credit_account_id: AccountId
    amount_minor: AmountMinor
    rate: Rate


class SweepRequest(PostingRequest, frozen=True):
    """The arguments of bank.sweep that are not in a header."""

    debit_account_id: AccountId
    credit_account_id: AccountId
    at_most_minor: AmountMinor | None = None


class ReverseRequest(PostingRequest, frozen=True):
    """The arguments of bank.reverse that are not in the path, a header or the key."""

    amount_minor: AmountMinor | None = None
    force: bool = False


class TransferToLedgerRequest(PostingRequest, frozen=True):
    """The arguments of bank.transfer_to_ledger that are not in a header."""

    debit_account_id: AccountId
    credit_ledger_id: AccountId
    credit_account_id: AccountId
    amount_minor: AmountMinor


class ExplainTransferRequest(Request, frozen=True):
    """The arguments of bank.explain_transfer."""

    debit_account_id: AccountId
    credit_account_id: AccountId
    amount_minor: AmountMinor


class PostLegs(Posting):
    """POST /v1/transactions: bank.post_legs."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Post any number of debits and credits as one transaction."""
        body = await read_body(req, PostLegsRequest)
        await self.post(req, resp, "post_legs", **body.arguments())


class Exchange(Posting):
    """POST /v1/exchanges: bank.exchange."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Move money between accounts of two currencies."""
        body = await read_body(req, ExchangeRequest)
        await self.post(req, resp, "exchange", **body.arguments())


class Sweep(Posting):
    """POST /v1/sweeps: bank.sweep."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Move all that is available on an account, or at most an amount."""
        body = await read_body(req, SweepRequest)
        await self.post(req, resp, "sweep", **body.arguments())


class Reverse(Posting):
    """POST /v1/transactions/{transaction_id}/reverse: bank.reverse."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, transaction_id: str) -> None:
        """Take a transaction back; to overdraw an account by it needs a scope of its own."""
        number, principal = read_id(transaction_id, "transaction_id"), req.context.principal
        body = await read_body(req, ReverseRequest)
        if body.force:
            principal.require("transactions:force")
        await self.post(req, resp, "reverse", transaction_id=number, changed_by=principal.name, **body.arguments())


class TransferToLedger(Posting):
    """POST /v1/ledger-transfers: bank.transfer_to_ledger. It reaches beyond the key's own ledger."""

    scope = "admin"

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Move money to an account of another ledger."""
        body = await read_body(req, TransferToLedgerRequest)
        await self.post(req, resp, "transfer_to_ledger", **body.arguments())


class ExplainTransfer:
    """POST /v1/transfers/explain: bank.explain_transfer.

    It moves nothing, but it locks both accounts as the transfer would, and so makes postings wait: a key that may only
    read could hold them up with it.
    """

    scope = "transactions:write"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Say what a transfer would do now, check by check."""
        body = await read_body(req, ExplainTransferRequest)
        ledger_id = req.context.principal.ledger_id
        try:
            [explanation] = await call(self._pool, "explain_transfer", **body.arguments(), ledger_id=ledger_id)
        except Problem as problem:
            raise problem.of_a_read() from problem.__cause__
        answer(resp, explanation)
