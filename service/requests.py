"""What comes in: bodies, path parts, query parameters and headers, checked for their form.

Only what the database could not be handed is refused here; what a value means is checked once, in SQL.
"""

import asyncio
import json
import re
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import falcon.asgi
import msgspec

from service import deadlines
from service.errors import Problem, invalid

AccountId = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
AmountMinor = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
LimitMinor = Number
SignedMinor = Annotated[int, msgspec.Meta(ge=-(2**53) + 1, le=2**53 - 1)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]
# PostgreSQL has no text with a NUL in it.
Text = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00]*\Z")]

# jsonb keeps a number as numeric, which holds so many digits after the point, before it, and in a written exponent.
_SCALE_MAX = 16_383
_DIGITS_MAX = 131_072
_EXPONENT_DIGITS_MAX = 9
# msgspec takes as deep a value as the stack of this process lets it; PostgreSQL has a stack of its own.
_DEPTH_MAX = 500

# SQL takes 8192 bytes, measured as jsonb writes them. As sent, with blanks and escapes, they may be more: so many. What
# is larger is refused unread, for while one body is looked into, no other request is answered.
_METADATA_TEXT_BYTES_MAX = 65_536
_METADATA_TOO_LARGE = "is larger than 8192 bytes"  # as bank._metadata_fault says
_LOOK_BYTES = 65_536
"""Of metadata so much is looked into before other requests have their turn."""
_FAULT_SEARCH_BYTES_MAX = 65_536
"""In a larger body the member at fault is not looked for, when it is not JSON or has a member twice."""
_NAME_CHARACTERS_MAX = 100
"""Of a name of the caller's that is shown."""

# With all digits made 0, a number may be out of range only where one of these stands: without them it has less than
# 1000 digits before the point, after it, and for its exponent less than three. A regular expression is slower.
_SHAPE = bytes.maketrans(b"123456789E+", b"000000000e-")
_FAR_EXPONENTS = (b"0e000", b"0e-000")
_MANY_DIGITS = b"0" * 1000
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_BRACKET = re.compile(rb"[\[\]{}]")
_NUMBER = re.compile(r"[0-9][0-9.eE+-]*")
_NUL_IN_JSON = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_ID = re.compile(r"[1-9][0-9]{0,18}\Z")
_BIGINT_MAX = 2**63 - 1
# Other characters reach us in an encoding that HTTP does not name, so two clients could mean different keys by them.
_PRINTABLE_ASCII = re.compile(r"[ -~]+\Z")
_ITEM_AT_FAULT = re.compile(r"`\$\.(\w+)\[\.\.\.\]")


class Request(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Base of all bodies and queries: an unknown field is an error, not a slip that goes unnoticed."""

    query: ClassVar[type["Request"]]
    """The form of the query that may come with a body of this form."""

    def arguments(self) -> dict[str, Any]:
        """Return the fields as arguments of the SQL function of the same names; JSON stays text."""
        return {
            name: bytes(value).decode() if isinstance(value, msgspec.Raw) else value
            for name, value in msgspec.structs.asdict(self).items()
        }


Request.query = Request


class PostingQuery(Request, frozen=True):
    """What a request that moves money may say in its query."""

    dry_run: Literal["true", "false"] = "false"


class PostingRequest(Request, frozen=True, kw_only=True):
    """What every body that moves money may say besides."""

    query = PostingQuery

    description: Text | None = None
    external_id: Text | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


S = TypeVar("S", bound=Request)


async def read_body(req: falcon.asgi.Request, form: type[S]) -> S:
    """Read a JSON body of this form; raises Problem that names the field, ValidationError likewise."""
    if req.query_string:
        read_query(req, form.query)
    if req.content_type != "application/json" or req.context.content_encoding is not None:
        _check_media(req)
    body = await _read(req)
    if not body:
        raise invalid("body", "is required")
    decoder, required_count, item_forms, json_fields, json_lists = _reader(form)
    try:
        struct: S = decoder.decode(body)
        # So many colons there are at least. When there are no more, no member is there twice.
        if body.count(b":") != required_count:
            members = _members(body)
            if item_forms:
                await _check_members_of_items(members, item_forms)
        _check_json_fields(struct, json_fields)
        looked_bytes = 0
        for name, item_fields in json_lists:
            for number, item in enumerate(getattr(struct, name)):
                looked_bytes += _check_json_fields(item, item_fields, f"{name}[{number}].")
                if looked_bytes > _LOOK_BYTES:
                    looked_bytes = 0
                    await asyncio.sleep(0)
    except msgspec.ValidationError as error:
        raise _with_number_of_item(error, body, form) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if (member := _member_at_fault(body, form)) is not None:
            raise invalid(member, "has text that is not Unicode, or a number that is not finite") from None
        raise invalid("body", f"is not JSON: {error}") from None
    except RecursionError:
        # Members of any other type are refused at their first bracket.
        raise invalid("metadata", "is nested too deeply") from None
    return struct


@cache
def _required_count(form: type[Request]) -> int:
    return sum(field.required for field in msgspec.structs.fields(form))


async def _check_members_of_items(members: dict[str, msgspec.Raw], item_forms: dict[str, type[Request]]) -> None:
    looked_bytes = 0
    for name, item_form in item_forms.items():
        for number, item in enumerate(msgspec.json.decode(members.get(name, b"[]"), type=list[msgspec.Raw])):
            if bytes(item).count(b":") != _required_count(item_form):
                _members(item, f"{name}[{number}].")
                looked_bytes += len(item)
                if looked_bytes > _LOOK_BYTES:
                    looked_bytes = 0
                    await asyncio.sleep(0)


def _members(text: bytes | msgspec.Raw, path: str = "") -> dict[str, msgspec.Raw]:
    """Return the members of an object of a form; raises Problem when one is there twice.

    Readers differ in which of the two they take. No name has a colon, so that those outside the values count them.
    """
    members = _decode_members(text)
    if bytes(text).count(b":") - b"".join(members.values()).count(b":") != len(members):
        name = (_repeated_members(bytes(text)) or ["body"])[-1]  # of the object itself, after those within it
        raise invalid(path + name, "is there more than once" if name != "body" else "has a member more than once")
    return members


_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _repeated_members(text: bytes) -> list[str]:
    """Name a member of each object that has one twice, the innermost first; none where it would take long to look."""
    repeated: list[str] = []
    if len(text) > _FAULT_SEARCH_BYTES_MAX:
        return repeated

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            repeated.append(next(name for name, count in counts.items() if count > 1))
        return members

    with suppress(ValueError, RecursionError):
        json.loads(text, object_pairs_hook=look, parse_int=str, parse_float=str)
    return repeated


def _check_media(req: falcon.asgi.Request) -> None:
    if (req.content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise Problem("unsupported_media_type")
    if (req.context.content_encoding or b"").strip(b" \t").lower() not in (b"", b"identity"):
        detail = "The body is to be sent as it is, with no Content-Encoding other than identity."
        raise Problem("unsupported_media_type", detail, headers={"Accept-Encoding": "identity"})


class _Reader(NamedTuple):
    """How a form is read."""

    decoder: msgspec.json.Decoder[Any]
    required_count: int
    item_forms: dict[str, type[Request]]
    """Of its lists."""
    json_fields: list[str]
    """Its fields that are any JSON."""
    json_lists: list[tuple[str, list[str]]]
    """The same of the items of its lists."""


@cache
def _reader(form: type[Request]) -> _Reader:
    item_forms = {
        name: item_form
        for name, hint in get_type_hints(form).items()
        for item_form in get_args(hint)
        if get_origin(hint) is list and issubclass(item_form, Request)
    }
    json_lists = [(name, fields) for name, item_form in item_forms.items() if (fields := _json_fields(item_form))]
    return _Reader(msgspec.json.Decoder(form), _required_count(form), item_forms, _json_fields(form), json_lists)


def _json_fields(form: type[Any]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(form) if field.type is msgspec.Raw]


def _member_at_fault(body: bytes, form: type[msgspec.Struct]) -> str | None:
    """Name the member for which a body is not JSON, if that is all that is wrong with it; msgspec does not say."""
    if len(body) > _FAULT_SEARCH_BYTES_MAX:
        return None
    try:
        members = json.loads(body.decode(errors="surrogateescape"))
    except (ValueError, RecursionError):
        return None
    if isinstance(members, dict):
        for name in form.__struct_fields__:
            try:
                json.dumps(members.get(name), allow_nan=False, ensure_ascii=False).encode()
            except (ValueError, RecursionError):
                return name
    return None


def _with_number_of_item(
    error: msgspec.ValidationError, body: bytes, form: type[msgspec.Struct]
) -> msgspec.ValidationError:
    """Say which item of a list is at fault, counted from 0; msgspec says [...]."""
    found = _ITEM_AT_FAULT.search(str(error))
    if found is not None:
        [item_form] = get_args(get_type_hints(form)[found[1]])
        try:
            members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            items = msgspec.json.decode(members[found[1]], type=list[msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return error  # what is wrong after the item does not let us look for it
        for number, item in enumerate(items):
            try:
                msgspec.json.decode(item, type=item_form)
            except msgspec.ValidationError:
                return msgspec.ValidationError(str(error).replace("[...]", f"[{number}]", 1))
    return error


async def _read(req: falcon.asgi.Request) -> bytes:
    """Read the whole body; stop at the limit, also when the body does not say how large it is."""
    limit_bytes = req.context.body_bytes_max
    if (req.content_length or 0) > limit_bytes:
        raise Problem("payload_too_large", limit_bytes=limit_bytes)
    began = time.monotonic()
    body: bytes = await req.stream.read(limit_bytes + 1)
    deadlines.extend(time.monotonic() - began)
    if req.scope.get("state", {}).get("body_cut_short"):  # Falcon's stream ends the same either way
        raise invalid("body", "was not sent to its end")
    if len(body) > limit_bytes:
        raise Problem("payload_too_large", limit_bytes=limit_bytes)
    return body


def _check_json_fields(struct: Request, names: list[str], path: str = "") -> int:
    """Check the members that are any JSON; return how many bytes have been looked into."""
    looked_bytes = 0
    for name in names:
        if (text := bytes(getattr(struct, name))) != b"{}":
            _check_json_object(path + name, text)
            looked_bytes += len(text)
    return looked_bytes


def _check_json_object(field: str, text: bytes) -> None:
    if len(text) > _METADATA_TEXT_BYTES_MAX:
        errors = [{"field": field, "reason": _METADATA_TOO_LARGE}]
        raise Problem("invalid_argument", f"{field} {_METADATA_TOO_LARGE}", errors=errors)
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(field, f"is not JSON: {error}") from None
    except RecursionError:
        raise invalid(field, "is nested too deeply") from None
    if not isinstance(value, dict):
        raise invalid(field, "is not an object")
    if rb"\u0000" in text and _NUL_IN_JSON.search(text):
        raise invalid(field, "has a NUL character")
    if text.count(b"[") + text.count(b"{") > _DEPTH_MAX and _depth(text) > _DEPTH_MAX:
        raise invalid(field, "is nested too deeply")
    if _may_be_out_of_range(text) and _has_number_out_of_range(text):
        raise invalid(field, "has a number that PostgreSQL does not take")
    if text.count(b":") != len(value) and _has_repeated_member(text, value):
        names = [repr(name[:_NAME_CHARACTERS_MAX]) for name in _repeated_members(text)[:1]]
        raise invalid(field, " ".join(["has a member more than once:", *names]).removesuffix(":"))


def _has_repeated_member(text: bytes, value: Any) -> bool:
    """Return whether JSON has more colons than its value has: one stands after each name, and any in a string."""
    if b"\\" in text:  # a colon may be escaped, so those in strings are left out
        return _STRING.sub(b"", text).count(b":") != _colons(value, of_strings=False)
    return text.count(b":") != _colons(value, of_strings=True)


def _colons(value: Any, *, of_strings: bool) -> int:
    count, unseen = 0, [value]
    for each in unseen:
        if isinstance(each, dict):
            count += len(each)
            unseen += each.values()
            if of_strings:
                unseen += each
        elif isinstance(each, list):
            unseen += each
        elif of_strings and isinstance(each, str):
            count += each.count(":")
    return count


def _may_be_out_of_range(text: bytes) -> bool:
    shape = text.translate(_SHAPE)
    return any(each in shape for each in _FAR_EXPONENTS) or (len(shape) > len(_MANY_DIGITS) and _MANY_DIGITS in shape)


def _has_number_out_of_range(text: bytes) -> bool:
    """Return whether numeric cannot hold one of the numbers in valid JSON: a regular expression finds them fastest."""
    return any(
        _is_out_of_range(number)
        for number in _NUMBER.findall(_STRING.sub(b"", text).decode().lower())
        if "e" in number or len(number) > len(_MANY_DIGITS)
    )


def _is_out_of_range(number: str) -> bool:
    mantissa, _, exponent = number.partition("e")
    exponent_digits = exponent.lstrip("+-").lstrip("0")
    if len(exponent_digits) > _EXPONENT_DIGITS_MAX:  # nor would int() take any number of them
        return True
    whole, _, fraction = mantissa.partition(".")
    shift = int(exponent_digits or "0") * (-1 if exponent.startswith("-") else 1)
    return len(fraction) - shift > _SCALE_MAX or len(whole) + shift > _DIGITS_MAX


def _depth(text: bytes) -> int:
    """Return how many brackets are open at most."""
    depth = deepest = 0
    for found in _BRACKET.findall(_STRING.sub(b"", text)):
        depth += (found in (b"[", b"{")) - (found in (b"]", b"}"))
        deepest = max(deepest, depth)
    return deepest


def read_query(req: falcon.asgi.Request, form: type[S]) -> S:
    """Read the query parameters of this form; raises ValidationError that names the parameter."""
    if "" in req.params:
        raise invalid("query", "has a parameter without a name")
    return msgspec.convert(req.params, form, strict=False)


def read_dry_run(req: falcon.asgi.Request) -> bool:
    """Return whether the request is only to say what would happen; read_body has checked the query."""
    return bool(req.query_string) and req.params.get("dry_run") == "true"


def read_name(text: str, field: str) -> str:
    """Read a name from a path; what it may be is for the database to say."""
    if "\0" in text:
        raise invalid(field, "has a NUL character")
    return text


def read_id(text: str, field: str, maximum: int = _BIGINT_MAX) -> int:
    """Read an id, or another whole number from 1, from a path or a query."""
    if not _ID.match(text) or int(text) > maximum:
        raise invalid(field, f"is not a whole number from 1 to {maximum}")
    return int(text)


def read_idempotency_key(req: falcon.asgi.Request) -> str:
    """Read the header without which nothing is posted: it is what makes a retry safe."""
    # Blanks that HTTP allows around a value are not part of it; any other character is.
    key = (req.get_header("Idempotency-Key") or "").strip(" \t")
    if not key:
        errors = [{"field": "idempotency_key", "reason": "is required"}]
        raise Problem("idempotency_key_required", errors=errors)
    if not _PRINTABLE_ASCII.match(key):
        raise invalid("idempotency_key", "has characters other than printable ASCII")
    return key


def keys_of_items(key: str, own_keys: list[str | None], field: str) -> list[str]:
    """Return the key of each item of a list: its own, or else the header's and its number, such as `key:1`.

    Raises Problem when an item's own key is the one that another item has by its number: the two would be taken for
    retries of each other. An empty key is a key, and the database refuses it.
    """
    keys = [f"{key}:{number}" if own is None else own for number, own in enumerate(own_keys, 1)]
    numbered = {keys[index]: index + 1 for index, own in enumerate(own_keys) if own is None}
    for index, own in enumerate(own_keys):
        if own in numbered:
            reason = f"is also the key that item {numbered[own]} gets for having none"
            raise invalid(f"{field}[{index}].idempotency_key", reason)
    return keys
