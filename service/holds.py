"""Holds: money that is reserved, and then captured or given up."""

import falcon.asgi

from service.db import Pool, read
from service.postings import Posting
from service.requests import AccountId, AmountMinor, LimitMinor, PostingRequest, Time, read_body, read_id
from service.responses import answer


class AuthoriseRequest(PostingRequest, frozen=True):
    """The arguments of bank.authorise that are not in a header."""

    account_id: AccountId
    amount_minor: AmountMinor
    beneficiary_account_id: AccountId | None = None
    tolerance_minor: LimitMinor = 0
    expires_at: Time | None = None


class CaptureRequest(PostingRequest, frozen=True):
    """The arguments of bank.capture that are not in the path or a header."""

    amount_minor: AmountMinor | None = None
    final: bool = False


class VoidRequest(PostingRequest, frozen=True):
    """The arguments of bank.void that are not in the path or a header."""


class Authorise(Posting):
    """POST /v1/holds: bank.authorise."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Reserve money of an account."""
        body = await read_body(req, AuthoriseRequest)
        await self.post(req, resp, "authorise", collection="/v1/holds", **body.arguments())


class Hold:
    """GET /v1/holds/{hold_id}: bank.hold."""

    scope = "accounts:read"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, hold_id: str) -> None:
        """Read a hold as it stands now."""
        ledger_id = req.context.principal.ledger_id
        [hold] = await read(self._pool, "hold", hold_id=read_id(hold_id, "hold_id"), ledger_id=ledger_id)
        answer(resp, hold)


class Capture(Posting):
    """POST /v1/holds/{hold_id}/capture: bank.capture."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, hold_id: str) -> None:
        """Move what is left of the hold, or a part of it, to its beneficiary."""
        number = read_id(hold_id, "hold_id")
        body = await read_body(req, CaptureRequest)
        await self.post(req, resp, "capture", hold_id=number, **body.arguments())


class Void(Posting):
    """POST /v1/holds/{hold_id}/void: bank.void."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, hold_id: str) -> None:
        """Give the hold up."""
        number = read_id(hold_id, "hold_id")
        body = await read_body(req, VoidRequest)
        await self.post(req, resp, "void", hold_id=number, **body.arguments())
