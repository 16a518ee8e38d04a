"""Many transfers in one request."""

from typing import Annotated, Any

import falcon.asgi
import msgspec

from service.db import Pool, call
from service.requests import (
    AccountId,
    AmountMinor,
    PostingQuery,
    Request,
    Text,
    keys_of_items,
    read_body,
    read_dry_run,
    read_idempotency_key,
)
from service.responses import answer, failure


class BatchItem(Request, frozen=True):
    """One transfer: an element of each array of bank.post_transfers."""

    debit_account_id: AccountId
    credit_account_id: AccountId
    amount_minor: AmountMinor
    idempotency_key: Text | None = None
    description: Text | None = None
    group: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    """Neighbours with the same number are linked: all of them are posted or none."""


class TransferBatchRequest(Request, frozen=True):
    """The transfers in order, and whether they stand or fall together."""

    query = PostingQuery

    transfers: Annotated[list[BatchItem], msgspec.Meta(min_length=1, max_length=10_000)]
    atomic: bool = False


class TransferBatch:
    """POST /v1/transfers/batch: bank.post_transfers."""

    scope = "transactions:write"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer with an outcome for each transfer, in order; an item without a key has the header's and its number."""
        key = read_idempotency_key(req)
        body = await read_body(req, TransferBatchRequest)
        items, dry_run = body.transfers, read_dry_run(req)
        rows = await call(
            self._pool,
            "post_transfers",
            dry_run=dry_run,
            debit_account_ids=[item.debit_account_id for item in items],
            credit_account_ids=[item.credit_account_id for item in items],
            amounts_minor=[item.amount_minor for item in items],
            idempotency_keys=keys_of_items(key, [item.idempotency_key for item in items], "transfers"),
            descriptions=[item.description for item in items],
            atomic=body.atomic,
            groups=[item.group for item in items],
            ledger_id=req.context.principal.ledger_id,
        )
        if dry_run:
            resp.set_header("Dry-Run", "true")
        if body.atomic:
            _raise_if_stopped(rows)
        answer(resp, {"transfers": rows})


def _raise_if_stopped(rows: list[dict[str, Any]]) -> None:
    """Answer a batch of which nothing was posted with the error of the item that stopped it."""
    for number, row in enumerate(rows, 1):
        if row["failure_code"] not in (None, "batch_aborted"):
            raise failure(row, stopped_by=number)
