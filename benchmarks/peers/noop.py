"""The ceiling of HTTP: the same Falcon, gunicorn and worker class answer without auth, checks, or a database.

A POST decodes its JSON and answers with a small JSON document; a GET answers with one like a balance.
"""

from typing import Any

import falcon.asgi
import msgspec

_BALANCE = {"account_id": 1, "currency": "EUR", "balance_minor": 0, "held_minor": 0, "available_balance_minor": 0}
_POSTED = {"transaction_id": 1, "transaction_status": "success"}


class Post:
    """Decode the body, answer."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        msgspec.json.decode(await req.stream.read())
        resp.status = falcon.HTTP_201
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(_POSTED)


class Get:
    """Answer."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(_BALANCE)


def create_app() -> Any:
    """Return the application, with the paths that the load generator asks for."""
    app: Any = falcon.asgi.App()
    app.add_route("/v1/transfers", Post())
    app.add_route("/v1/accounts/{account_id}/balance", Get())
    return app
