"""Every error of the API, from the catalogue in sql/errors.toml, as problem+json (RFC 9457)."""

import re
from typing import Any

import falcon
import falcon.asgi
import msgspec
import psycopg
import structlog

from service import poolers
from service.installation import error_catalogue
from service.logs import FailureLog

log = structlog.get_logger()

_FIELD = re.compile(r"`\$(?:\.(?P<path>[^`]*))?`|field `(?P<name>[^`]*)`")
_RETRY_AFTER_SECONDS = 1
_UNKNOWN_WITHOUT_KEY = (
    "The connection broke, or the database did not answer in time, while it had the request. "
    "Look at the account, or send the request again: it does no harm twice."
)
_OVER_HTTP = {"account_ids": "legs", "amounts_minor": "legs"}
"""Arguments of SQL that are members of another name over HTTP."""


class Problem(Exception):
    """An error answer: a code of the catalogue, a sentence about this case, and facts as extension members.

    status: of a code that the catalogue does not have, because the database is of a newer version than this process.
    """

    def __init__(
        self, code: str, detail: str = "", headers: dict[str, str] | None = None, status: int = 400, **facts: Any
    ) -> None:
        super().__init__(code)
        title = code.replace("_", " ").capitalize()
        entry = error_catalogue().get(code) or {"http_status": status, "title": title, "meaning": title}
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

    @property
    def is_unsent(self) -> bool:
        """Whether the request never reached the database."""
        return bool(self.body["code"] == "database_unavailable")

    def of_a_read(self) -> "Problem":
        """Return what it is to a request that leaves nothing behind: an outcome that is not known is no outcome."""
        return Problem("database_unavailable") if self.body["code"] == "outcome_unknown" else self

    def of_what_has_no_key(self) -> "Problem":
        """Return what it is to a change that no idempotency key tells from an earlier one."""
        return Problem("outcome_unknown", _UNKNOWN_WITHOUT_KEY) if self.body["code"] == "outcome_unknown" else self

    def after_a_lock(self) -> "Problem":
        """Return what it is to a request that has met a lock before, and was taken back: that is why it is late."""
        return Problem("timed_out") if self.is_unsent else self


def invalid(field: str, reason: str) -> Problem:
    """Return the answer to a request in which one field is not valid."""
    return Problem("invalid_request", f"{field} {reason}", errors=[{"field": field, "reason": reason}])


def from_validation(error: msgspec.ValidationError) -> Problem:
    """Name the field that msgspec objects to. It gives no structure, only a sentence that quotes the path."""
    sentence = str(error)
    parts = [part for found in _FIELD.finditer(sentence) for part in (found["path"], found["name"]) if part]
    # The name stands before the path that leads to it.
    return invalid(".".join(reversed(parts)) or "body", sentence.partition(" - at ")[0])


def from_outcome(
    code: str, facts_json: bytes | str | None, *, recorded: bool, meaning: str | None = None, **members: Any
) -> Problem:
    """Answer a rejected or refused posting: its code, and its facts as members.

    recorded: whether it is a rejection, so that a code of a newer version can be told from that of a malformed call.
    meaning: what the database says of the code.
    """
    facts = {**_facts(facts_json), **members}
    detail = "" if code in error_catalogue() else meaning or ""
    if isinstance(facts.get("field"), str):
        field, reason = facts.pop("field"), facts.pop("reason", "is not valid")
        field = _OVER_HTTP.get(field, field)
        detail = detail or f"{field} {reason}"
        facts["errors"] = [{"field": field, "reason": reason}]
    problem = Problem(code, detail, status=422 if recorded else 400)
    problem.body |= {name: fact for name, fact in facts.items() if name not in problem.body}
    return problem


def _facts(text: bytes | str | None) -> dict[str, Any]:
    """Return the facts that come with an error; none when it does not come with a JSON object."""
    try:
        facts = msgspec.json.decode(text or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def left_nothing_behind(error: psycopg.Error) -> bool:
    """Return whether the call is known to be rolled back, or never sent: the server lives, and says that it failed.

    Its last words before it ends a session, and an error without any, leave it open: they may come after the commit.
    """
    if error.sqlstate is None:
        return not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.diag.severity_nonlocalized == "ERROR" and not error.sqlstate.startswith(("08", "57P"))


def from_database(error: psycopg.Error) -> Problem:
    """Translate an error of the database by its SQLSTATE; never by its text."""
    sqlstate = error.sqlstate or ""
    if not left_nothing_behind(error):
        return Problem("outcome_unknown")
    match sqlstate[:2]:
        case "TL":
            diag = error.diag
            return from_outcome(
                str(diag.message_primary), diag.message_detail, recorded=False, meaning=diag.message_hint
            )
        case "22" | "54":  # a value out of range, or larger or deeper than PostgreSQL can work with
            return invalid("body", f"has a value that PostgreSQL does not take: {error.diag.message_primary}")
        case "40":
            return Problem("timed_out")
    match error:
        case psycopg.errors.LockNotAvailable() | psycopg.errors.QueryCanceled():
            return Problem("timed_out")
        case psycopg.errors.ReadOnlySqlTransaction():
            return Problem("read_only")
        case psycopg.OperationalError():  # a full disk, no memory, a file that cannot be read, …
            meaning = error_catalogue()["database_failed"]["meaning"]
            return Problem("database_failed", f"{meaning} {error.diag.message_primary}")
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
    failures = FailureLog(log)

    async def handle(
        req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
    ) -> None:
        problem = _problem(error)
        if problem.body["code"] == "internal_error":
            log.error("request failed", request_id=req.context.request_id, path=req.path, exc_info=error)
        elif problem.status >= 500:  # noqa: PLR2004
            reason = poolers.explained(error.__cause__ or error)
            failures.add(problem.body["code"], request_id=req.context.request_id, path=req.path, error=reason)
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
