"""Looking transactions up."""

import falcon.asgi

from service.db import Pool, read
from service.requests import Request, Text, read_id, read_query
from service.responses import answer


class FindTransactionQuery(Request, frozen=True):
    """The arguments of bank.find_transaction."""

    idempotency_key: Text


class GetTransaction:
    """GET /v1/transactions/{transaction_id}: bank.get_transaction."""

    scope = "accounts:read"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, transaction_id: str) -> None:
        """Read a transaction, successful or failed."""
        ledger_id = req.context.principal.ledger_id
        number = read_id(transaction_id, "transaction_id")
        [posting] = await read(self._pool, "get_transaction", transaction_id=number, ledger_id=ledger_id)
        answer(resp, posting)


class FindTransaction:
    """GET /v1/transactions?idempotency_key=: bank.find_transaction."""

    scope = "accounts:read"
    reads_query = True

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Read the transaction of an idempotency key."""
        ledger_id = req.context.principal.ledger_id
        key = read_query(req, FindTransactionQuery).idempotency_key
        [posting] = await read(self._pool, "find_transaction", idempotency_key=key, ledger_id=ledger_id)
        answer(resp, posting)
