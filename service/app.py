"""The application: every route, and the function of schema bank behind it, at a glance."""

import re
import uuid
from typing import Any

import falcon.asgi

from service.accounts import Account, Balance, OpenAccount
from service.auth import Authentication
from service.batches import TransferBatch
from service.coalescer import Coalescer
from service.config import Settings
from service.db import Pool
from service.errors import add_handlers
from service.health import Live, Ready
from service.postings import Credit, Debit, Transfer
from service.statements import Statement
from service.transactions import FindTransaction, GetTransaction

App = falcon.asgi.App[Any, Any]


def create_app(pool: Pool, settings: Settings) -> App:
    """Return the ASGI application over this pool, which it opens and closes with the server."""
    coalescer = Coalescer(pool, settings)
    app: App = falcon.asgi.App(middleware=[Lifecycle(pool, coalescer, settings), Authentication(pool, settings)])
    app.req_options.auto_parse_qs_csv = False
    app.req_options.keep_blank_qs_values = True

    app.add_route("/v1/accounts", OpenAccount(pool))
    app.add_route("/v1/accounts/{account_id}", Account(pool))
    app.add_route("/v1/accounts/{account_id}/balance", Balance(pool))
    app.add_route("/v1/accounts/{account_id}/entries", Statement(pool))
    app.add_route("/v1/accounts/{account_id}/credit", Credit(coalescer))
    app.add_route("/v1/accounts/{account_id}/debit", Debit(coalescer))
    app.add_route("/v1/transfers", Transfer(coalescer))
    app.add_route("/v1/transfers/batch", TransferBatch(pool))
    app.add_route("/v1/transactions", FindTransaction(pool))
    app.add_route("/v1/transactions/{transaction_id}", GetTransaction(pool))
    app.add_route("/health/live", Live())
    app.add_route("/health/ready", Ready(pool))

    add_handlers(app)
    return app


class Lifecycle:
    """Middleware: the pool lives as long as the server, and every request has an id."""

    _REQUEST_ID = re.compile(r"[\w.:-]{1,128}\Z", re.ASCII)

    def __init__(self, pool: Pool, coalescer: Coalescer, settings: Settings) -> None:
        self._pool = pool
        self._coalescer = coalescer
        self._body_bytes_max = settings.body_bytes_max

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Open the pool without waiting: a worker starts, and answers 503, while the database is away."""
        await self._pool.open()

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Close the pool after the last request."""
        await self._coalescer.drain()
        await self._pool.close()

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Take the caller's X-Request-ID, or make one."""
        given = req.get_header("X-Request-ID") or ""
        req.context.request_id = given if self._REQUEST_ID.match(given) else uuid.uuid4().hex
        req.context.body_bytes_max = self._body_bytes_max
        resp.set_header("X-Request-ID", req.context.request_id)
