"""What goes out: rows as JSON, and the outcome of a posting as status, headers and body."""

from typing import Any

import falcon
import falcon.asgi
import msgspec

from service.errors import Problem, from_outcome

_encode = msgspec.json.Encoder().encode


def answer(resp: falcon.asgi.Response, media: Any, status: str = falcon.HTTP_200, location: str | None = None) -> None:
    """Answer with JSON: integers exact, times in RFC 3339 UTC."""
    resp.status = status
    if location is not None:
        resp.location = location
    resp.data = _encode(media)  # as application/json, Falcon's default


def answer_opening(resp: falcon.asgi.Response, account: dict[str, Any]) -> None:
    """Answer 201 for an account that was opened now, 200 for a replay."""
    if account["replayed"]:
        resp.set_header("Idempotent-Replayed", "true")
    status = falcon.HTTP_200 if account["replayed"] else falcon.HTTP_201
    answer(resp, account, status, location=f"/v1/accounts/{account['account_id']}")


def failure(posting: dict[str, Any], **members: Any) -> Problem:
    """Return the answer to a posting that was rejected or refused: its code and its facts."""
    if posting["transaction_id"] is not None:  # else it was refused, and nothing is recorded
        members["transaction_id"] = posting["transaction_id"]
    recorded = posting["created_at"] is not None  # a dry run has no transaction_id to show
    return from_outcome(posting["failure_code"], posting["failure_detail"], recorded=recorded, **members)


def answer_posting(
    resp: falcon.asgi.Response, posting: dict[str, Any], *, dry_run: bool = False, collection: str = "/v1/transactions"
) -> None:
    """Answer 201 for what was posted now, 200 for a replay or a dry run, and any rejection as a problem.

    collection: the path under which what was posted is found by its transaction_id.
    """
    if dry_run:
        resp.set_header("Dry-Run", "true")
    if posting["replayed"]:
        resp.set_header("Idempotent-Replayed", "true")
    if posting["failure_code"] is not None:
        raise failure(posting)
    status = falcon.HTTP_200 if posting["replayed"] or dry_run else falcon.HTTP_201
    recorded = posting["transaction_id"] is not None
    answer(resp, posting, status, location=f"{collection}/{posting['transaction_id']}" if recorded else None)
