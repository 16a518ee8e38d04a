"""The application: every route, and the function of schema bank behind it, at a glance."""

import itertools
import re
import secrets
from collections.abc import Sequence
from typing import Any

import falcon.asgi

from service import deadlines
from service.account_life import (
    AccountChanges,
    CloseAccount,
    FreezeAccount,
    Limits,
    ReopenAccount,
    SetLimit,
    UnfreezeAccount,
)
from service.accounts import Account, Balance, Balances, OpenAccount, OpenAccounts
from service.auth import Authentication, Principals
from service.batches import TransferBatch
from service.coalescer import Coalescer
from service.config import Settings
from service.db import Pool
from service.errors import add_handlers
from service.health import Live, Ready
from service.holds import Authorise, Capture, Hold, Void
from service.metrics import Metrics, RequestFigures
from service.movements import Exchange, ExplainTransfer, PostLegs, Reverse, Sweep, TransferToLedger
from service.postings import Credit, Debit, Postings, Transfer
from service.statements import Statement
from service.stripes import StripeAccount
from service.sweeper import HoldSweeper
from service.transactions import FindTransaction, GetTransaction

App = falcon.asgi.App[Any, Any]


def create_app(pool: Pool, settings: Settings) -> App:
    """Return the ASGI application over this pool, which it opens and closes with the server."""
    postings, balances, principals = Postings(pool, settings), Balances(pool, settings), Principals(pool, settings)
    ready = Ready(settings)
    lifecycle = Lifecycle(pool, [postings, balances, principals], HoldSweeper(pool, settings), ready, settings)
    app: App = falcon.asgi.App(middleware=[RequestFigures(), lifecycle, Authentication(principals, settings)])
    app.req_options.auto_parse_qs_csv = False
    app.req_options.keep_blank_qs_values = True

    app.add_route("/v1/accounts", OpenAccount(pool))
    app.add_route("/v1/accounts/batch", OpenAccounts(pool))
    app.add_route("/v1/accounts/{account_id}", Account(pool))
    app.add_route("/v1/accounts/{account_id}/balance", Balance(balances))
    app.add_route("/v1/accounts/{account_id}/entries", Statement(pool))
    app.add_route("/v1/accounts/{account_id}/credit", Credit(postings))
    app.add_route("/v1/accounts/{account_id}/debit", Debit(postings))
    app.add_route("/v1/accounts/{account_id}/stripes", StripeAccount(pool))
    app.add_route("/v1/accounts/{account_id}/freeze", FreezeAccount(pool))
    app.add_route("/v1/accounts/{account_id}/unfreeze", UnfreezeAccount(pool))
    app.add_route("/v1/accounts/{account_id}/close", CloseAccount(pool))
    app.add_route("/v1/accounts/{account_id}/reopen", ReopenAccount(pool))
    app.add_route("/v1/accounts/{account_id}/limits", Limits(pool))
    app.add_route("/v1/accounts/{account_id}/limits/{limit_kind}", SetLimit(pool))
    app.add_route("/v1/accounts/{account_id}/changes", AccountChanges(pool))
    app.add_route("/v1/transfers", Transfer(postings))
    app.add_route("/v1/transfers/batch", TransferBatch(pool))
    app.add_route("/v1/transfers/explain", ExplainTransfer(pool))
    app.add_route("/v1/transactions", Methods(get=FindTransaction(pool), post=PostLegs(pool)))
    app.add_route("/v1/transactions/{transaction_id}", GetTransaction(pool))
    app.add_route("/v1/transactions/{transaction_id}/reverse", Reverse(pool))
    app.add_route("/v1/holds", Authorise(pool))
    app.add_route("/v1/holds/{hold_id}", Hold(pool))
    app.add_route("/v1/holds/{hold_id}/capture", Capture(pool))
    app.add_route("/v1/holds/{hold_id}/void", Void(pool))
    app.add_route("/v1/exchanges", Exchange(pool))
    app.add_route("/v1/sweeps", Sweep(pool))
    app.add_route("/v1/ledger-transfers", TransferToLedger(pool))
    app.add_route("/health/live", Live())
    app.add_route("/health/ready", ready)
    app.add_route("/metrics", Metrics())

    add_handlers(app)
    return app


class Methods:
    """Resources that share a path, one for each method: Falcon takes one resource a path."""

    def __init__(self, **resources: Any) -> None:
        self.scope = {method.upper(): resource.scope for method, resource in resources.items()}
        for method, resource in resources.items():
            setattr(self, f"on_{method}", getattr(resource, f"on_{method}"))


class Lifecycle:
    """Middleware: the pools live as long as the server, and every request has an id and a deadline."""

    _REQUEST_ID = re.compile(r"[\w.:-]{1,128}\Z", re.ASCII)

    def __init__(
        self,
        pool: Pool,
        coalescers: Sequence[Coalescer[Any, Any]],
        sweeper: HoldSweeper,
        ready: Ready,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._coalescers = coalescers
        self._sweeper = sweeper
        self._ready = ready
        self._request_timeout_seconds = settings.request_timeout_seconds
        self._body_bytes_max = settings.body_bytes_max
        self._worker = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Open the pool without waiting: a worker starts, and answers 503, while the database is away."""
        await self._pool.open()
        await self._ready.pool.open()
        self._sweeper.start()

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        """Close the pool after the last request."""
        await self._sweeper.stop()
        for coalescer in self._coalescers:
            await coalescer.drain()
        await self._pool.locked.stop()
        await self._ready.pool.close()
        await self._pool.close()

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Take the caller's X-Request-ID, or make one: of the worker, and the number of the request in it."""
        deadlines.begin(self._request_timeout_seconds)
        request_id = req.get_header("X-Request-ID")
        if request_id is None or not self._REQUEST_ID.match(request_id):
            request_id = f"{self._worker}{next(self._numbers):016x}"
        req.context.request_id = request_id
        req.context.body_bytes_max = self._body_bytes_max
        resp.set_header("X-Request-ID", request_id)
