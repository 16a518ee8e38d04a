"""Every error of the API, from the catalogue in sql/errors.toml, as problem+json (RFC 9457)."""

import re
from typing import Any

import falcon
import falcon.asgi
import msgspec
import psycopg
import structlog

from service.installation import error_catalogue

log = structlog.get_logger()

_FIELD = re.compile(r"`\$(?:\.(?P<path>[^`]*))?`|field `(?P<name>[^`]*)`")
_RETRY_AFTER_SECONDS = 1
_OVER_HTTP = {"account_ids": "legs", "amounts_minor": "legs"}
"""Arguments of SQL that are members of another name over HTTP."""


class Problem(Exception):
    """An error answer: a code of the catalogue, a sentence about this case, and facts as extension members."""

    def __init__(self, code: str, detail: str = "", headers: dict[str, str] | None = None, **facts: Any) -> None:
        super().__init__(code)
        entry = error_catalogue()[code]
        self.status: int = entry["http_status"]
        self.headers = headers or {}
        self.body = {
            "type": f"urn:pgteller:error:{code}",
            "title": entry["title"],
            "status": self.status,
            "detail": detail or entry["meaning"],
            "code": code,
            **facts,
        }
        if self.status == falcon.http_status_to_code(falcon.HTTP_SERVICE_UNAVAILABLE):
            self.headers.setdefault("Retry-After", str(_RETRY_AFTER_SECONDS))


def invalid(field: str, reason: str) -> Problem:
    """Return the answer to a request in which one field is not valid."""
    return Problem("invalid_request", f"{field} {reason}", errors=[{"field": field, "reason": reason}])


def from_validation(error: msgspec.ValidationError) -> Problem:
    """Name the field that msgspec objects to. It gives no structure, only a sentence that quotes the path."""
    sentence = str(error)
    parts = [part for found in _FIELD.finditer(sentence) for part in (found["path"], found["name"]) if part]
    # The name stands before the path that leads to it.
    return invalid(".".join(reversed(parts)) or "body", sentence.partition(" - at ")[0])


def from_outcome(code: str, facts: dict[str, Any], **members: Any) -> Problem:
    """Answer a rejected or refused posting: its code, and its facts as members."""
    detail = ""
    if "field" in facts:
        field, reason = facts.pop("field"), facts.pop("reason")
        field = _OVER_HTTP.get(field, field)
        detail = f"{field} {reason}"
        members["errors"] = [{"field": field, "reason": reason}]
    return Problem(code, detail, None, **facts, **members)


def from_database(error: psycopg.Error) -> Problem:
    """Translate an error of the database by its SQLSTATE; never by its text."""
    sqlstate = error.sqlstate or ""
    match sqlstate[:2]:
        case "TL":
            return from_outcome(str(error.diag.message_primary), msgspec.json.decode(error.diag.message_detail or "{}"))
        case "22":
            return invalid("body", f"has a value that PostgreSQL does not take: {error.diag.message_primary}")
        case "40" | "55":
            return Problem("timed_out")
    if sqlstate == psycopg.errors.QueryCanceled.sqlstate:
        return Problem("timed_out")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Problem("outcome_unknown")
    return Problem("internal_error")


def from_falcon(error: falcon.HTTPError) -> Problem:
    """Give Falcon's own errors a code of the catalogue."""
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            return Problem("not_found")
        case 405:
            return Problem("method_not_allowed", headers=headers)
        case 413:
            return Problem("payload_too_large")
        case 415:
            return Problem("unsupported_media_type")
        case status if 400 <= status < 500:  # noqa: PLR2004
            return invalid("request", error.description or error.title or "is not valid HTTP")
    return Problem("internal_error")


def add_handlers(app: falcon.asgi.App[Any, Any]) -> None:
    """Answer every exception that leaves a resource as a problem."""

    async def handle(
        req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
    ) -> None:
        problem = _problem(error)
        if problem.body["code"] == "internal_error":
            log.error("request failed", request_id=req.context.request_id, path=req.path, exc_info=error)
        elif problem.status >= 500:  # noqa: PLR2004
            log.warning(problem.body["code"], request_id=req.context.request_id, path=req.path, error=str(error))
        resp.status = problem.status
        resp.set_headers(problem.headers)
        resp.content_type = "application/problem+json"
        resp.data = msgspec.json.encode({**problem.body, "request_id": req.context.request_id})

    # Falcon has a handler of its own for HTTPError, which would go before one for Exception.
    app.add_error_handler(Exception, handle)
    app.add_error_handler(falcon.HTTPError, handle)


def _problem(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case falcon.HTTPError():
            return from_falcon(error)
        case msgspec.ValidationError():
            return from_validation(error)
        case psycopg.Error():
            return from_database(error)
    return Problem("internal_error")
