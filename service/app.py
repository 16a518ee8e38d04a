"""The application: every route, and the function of schema bank behind it, at a glance."""

import itertools
import re
import secrets
from collections.abc import Sequence
from typing import Any

import falcon.asgi
from falcon.constants import COMBINED_METHODS
from falcon.routing import map_http_methods

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
from service.errors import Problem, add_handlers, invalid
from service.health import Live, Ready
from service.holds import Authorise, Capture, Hold, Void
from service.metrics import Metrics, RequestFigures
from service.movements import Exchange, ExplainTransfer, PostLegs, Reverse, Sweep, TransferToLedger
from service.postings import Credit, Debit, Postings, Transfer
from service.requests import Request, read_query
from service.statements import Statement
from service.stripes import StripeAccount
from service.sweeper import HoldSweeper
from service.transactions import FindTransaction, GetTransaction


class App(falcon.asgi.App[Any, Any]):
    """An application whose resources answer HEAD and OPTIONS as HTTP has it."""

    def add_route(self, uri_template: str, resource: Any, **kwargs: Any) -> None:
        """Add a resource: HEAD is GET, for Falcon then leaves out the body; OPTIONS says what there is."""
        if hasattr(resource, "on_get"):
            resource.on_head = resource.on_get
        resource.allow = sorted([*map_http_methods(resource), "OPTIONS"])
        resource.on_options = _answer_options(resource.allow)
        super().add_route(uri_template, resource, **kwargs)


def _answer_options(allow: list[str]) -> Any:
    async def on_options(req: Any, resp: Any, **_: Any) -> None:
        resp.status = falcon.HTTP_204
        resp.set_header("Allow", ", ".join(allow))

    return on_options


async def _options_of_the_server(req: Any, resp: Any, **_: Any) -> None:
    if req.method != "OPTIONS":
        raise Problem("not_found")
    resp.status = falcon.HTTP_204
    resp.set_header("Allow", "GET, HEAD, OPTIONS, POST, PUT")


def create_app(pool: Pool, settings: Settings) -> App:
    """Return the ASGI application over this pool, which it opens and closes with the server."""
    postings, balances, principals = Postings(pool, settings), Balances(pool, settings), Principals(pool, settings)
    ready = Ready(settings)
    lifecycle = Lifecycle(pool, [postings, balances, principals], HoldSweeper(pool, settings), ready, settings)
    middleware: list[Any] = [RequestFigures(), lifecycle, Target(), Authentication(principals, settings)]
    app = App(middleware=middleware)
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

    app.add_sink(_options_of_the_server, r"\*\Z")

    add_handlers(app)
    return app


class Methods:
    """Resources that share a path, one for each method: Falcon takes one resource a path."""

    def __init__(self, **resources: Any) -> None:
        self.scope = {method.upper(): resource.scope for method, resource in resources.items()}
        self.scope["HEAD"] = resources["get"].scope
        self.reads_query = True
        for method, resource in resources.items():
            setattr(self, f"on_{method}", getattr(resource, f"on_{method}"))


class Target:
    """Middleware: what is asked for is written as it is documented, and nothing is asked in vain.

    Whoever guards a path in front of us compares it as it came: another spelling of it leads nowhere.
    """

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: Any, params: dict[str, Any]
    ) -> None:
        """Refuse a path that is spelt in another way, a method that nobody knows, and a query that nobody reads."""
        path: bytes = req.scope["raw_path"]
        if (b"%" in path or path[1:2] == b"/") and not _is_spelt_as(req.uri_template or "", path.decode(), params):
            raise Problem("not_found")
        if req.query_string and req.method in ("GET", "HEAD") and not getattr(resource, "reads_query", False):
            read_query(req, Request)
        if req.method not in _METHODS:  # Falcon would say that the request is bad
            raise falcon.HTTPMethodNotAllowed(resource.allow)


_METHODS = frozenset(COMBINED_METHODS)


def _is_spelt_as(template: str, path: str, params: dict[str, str]) -> bool:
    """Return whether the path differs from the template in its parameters alone, and numbers are written in digits."""
    parts, fields = path.split("/"), template.split("/")
    return len(parts) == len(fields) and all(
        part == field or (field.startswith("{") and not ("%" in part and _is_number(params[field[1:-1]])))
        for part, field in zip(parts, fields, strict=True)
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


class Lifecycle:
    """Middleware: the pools live as long as the server, and every request has an id, a deadline and sound headers."""

    _REQUEST_ID = re.compile(rb"[\w.:-]{1,128}\Z", re.ASCII)
    _HOST = re.compile(rb"(?:\[[\w:.~%-]+\]|[\w.~%!$&'()*+,;=-]*)(?::[0-9]*)?[ \t]*\Z", re.ASCII)
    _NOT_REPEATED = (
        *("host", "idempotency-key", "authorization", "content-type", "content-encoding"),
        "transfer-encoding",
    )

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
        """Take the caller's X-Request-ID, or make one: of the worker, and the number of the request in it.

        Raises Problem when there is no Host, or two headers where one is meant: another reader may take the other one.
        So it does when a body is in another transfer coding than chunked: what we took for the body would be another.
        """
        deadlines.begin(self._request_timeout_seconds)
        headers: list[tuple[bytes, bytes]] = req.scope["headers"]
        by_name = dict(headers)
        given_id = by_name.get(b"x-request-id")
        if given_id is None or not self._REQUEST_ID.match(given_id):
            request_id = f"{self._worker}{next(self._numbers):016x}"
        else:
            request_id = given_id.decode()
        req.context.request_id = request_id
        req.context.body_bytes_max = self._body_bytes_max
        req.context.content_encoding = by_name.get(b"content-encoding")
        resp.set_header("X-Request-ID", request_id)
        if len(by_name) != len(headers):
            names = [name.decode() for name, _ in headers]
            for name in self._NOT_REPEATED:
                if names.count(name) > 1:
                    raise invalid(name.replace("-", "_"), "is there more than once")
        host = by_name.get(b"host")
        if host is None:
            if req.scope["http_version"] != "1.0":
                raise invalid("host", "is required")
        elif not self._HOST.match(host):
            raise invalid("host", "is not a host and a port")
        if (coding := by_name.get(b"transfer-encoding")) is not None and coding.strip(b" \t").lower() != b"chunked":
            raise Problem("unsupported_transfer_coding")
