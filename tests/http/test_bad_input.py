"""Nonsense from outside gets a 4xx that names the field, and posts nothing."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.http.conftest import Service, fields_of, new_key, open_account, problem_of

DEPTH = 100_000
JSON = {"Content-Type": "application/json"}

# Written as they go over the wire. The whole of -0 is a zero, and so is refused where a zero is.
AMOUNTS_REFUSED = [
    *("0", "-1", "1.5", "1.0", "1e3", "1E0", "10e-1", "-0", "-0.0", "0.1", "1e400", "-1e400", "NaN", "Infinity"),
    *("-Infinity", str(2**53), str(2**53 + 1), str(2**63 - 1), str(2**63), str(2**64), str(2**70), "9" * 4000),
    *('"1"', '""', '"NaN"', "true", "false", "null", "[]", "[1]", "{}"),
]
LIMITS_REFUSED = [
    *("-1", "1.5", "1.0", "1e3", "0.0", "1e400", "NaN", "Infinity", str(2**53), str(2**63), str(2**70)),
    *('"1"', "true", "[]"),
]
IDS_REFUSED = [
    *("0", "-1", "1.0", "1.5", "1e0", "1e400", "NaN", str(2**63), str(2**70), '"1"', "true", "[]", "{}"),
]
PATH_IDS_REFUSED = [
    *("0", "-1", "+1", "01", "1.0", "1e0", "abc", "1a", "%20", "1%20", "%201", "1%0A", "1%00", "%00", "0x1", "1_0"),
    *(str(2**63), str(2**70), "9" * 4000, "\u0663", "\uff11", "NaN", "null", "%FF", "%ED%A0%80", "1,2", "1%2F2"),
]


class Route(NamedTuple):
    """A route that takes a body: its path, a valid body, and which members are of which kind."""

    path: str
    body: dict[str, Any]
    texts: dict[str, int]
    """Length that is still good, by the name of the member."""
    ids: tuple[str, ...] = ()


ROUTES = ["open_account", "credit", "debit", "transfer"]
POSTING_ROUTES = ROUTES[1:]
POSTING_TEXTS = {"description": 500, "external_id": 255}
TEXTS = [
    *(("open_account", name) for name in ("holder_name", "currency", "external_id")),
    *((name, text) for name in POSTING_ROUTES for text in POSTING_TEXTS),
]
LENGTHS = [
    (route, text, length)
    for route, text in TEXTS
    if text != "currency"
    for length in [{"holder_name": 100, **POSTING_TEXTS}[text]]
]


@pytest.fixture(scope="module")
def routes(client: httpx.Client) -> dict[str, Route]:
    one, two = open_account(client, balance_minor=1000), open_account(client, balance_minor=1000)
    amount = {"amount_minor": 1}
    sides = {"debit_account_id": one, "credit_account_id": two}
    return {
        "open_account": Route("/v1/accounts", {"holder_name": "Ada", "currency": "EUR"}, {}),
        "credit": Route(f"/v1/accounts/{one}/credit", amount, POSTING_TEXTS),
        "debit": Route(f"/v1/accounts/{one}/debit", amount, POSTING_TEXTS, ("beneficiary_account_id",)),
        "transfer": Route("/v1/transfers", {**sides, **amount}, POSTING_TEXTS, tuple(sides)),
    }


@pytest.fixture(autouse=True)
def _checked(routes: dict[str, Route], request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test here: after the accounts are there, nothing is posted and no account is opened."""
    request.getfixturevalue("nothing_is_posted")
    database = request.getfixturevalue("database")
    accounts = database.execute("select count(*) from bank.account").fetchone()
    yield
    assert database.execute("select count(*) from bank.account").fetchone() == accounts


def send(client: httpx.Client, route: Route, body: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    """Send these bytes as JSON."""
    return client.post(route.path, content=body, headers={**JSON, **new_key(), **headers})


def body_with(route: Route, member: str, value: str | bytes) -> bytes:
    """Return the route's valid body with this text as the value of a member."""
    others = json.dumps({name: other for name, other in route.body.items() if name != member}).encode()
    text = value.encode() if isinstance(value, str) else value
    return others[:-1] + (b", " if len(others) > 2 else b"") + f'"{member}": '.encode() + text + b"}"


def assert_names(answer: httpx.Response, field: str, status: int = 400) -> None:
    assert answer.status_code == status, answer.text
    problem = problem_of(answer, status, answer.json()["code"])
    assert fields_of(problem) == [field], problem


# ---- numbers


@pytest.mark.parametrize("route", POSTING_ROUTES)
@pytest.mark.parametrize("amount", AMOUNTS_REFUSED)
def test_an_amount_is_a_whole_number_of_minor_units_in_the_exact_range(
    client: httpx.Client, routes: dict[str, Route], route: str, amount: str
) -> None:
    answer = send(client, routes[route], body_with(routes[route], "amount_minor", amount))
    assert_names(answer, "amount_minor")


@pytest.mark.parametrize("limit", LIMITS_REFUSED)
def test_an_overdraft_limit_is_a_whole_number_of_minor_units_from_0(
    client: httpx.Client, routes: dict[str, Route], limit: str
) -> None:
    route = routes["open_account"]
    assert_names(send(client, route, body_with(route, "overdraft_limit_minor", limit)), "overdraft_limit_minor")


@pytest.mark.parametrize(
    ("route", "member"),
    [("debit", "beneficiary_account_id"), ("transfer", "debit_account_id"), ("transfer", "credit_account_id")],
)
@pytest.mark.parametrize("value", IDS_REFUSED)
def test_an_account_in_a_body_is_a_whole_number_from_1(
    client: httpx.Client, routes: dict[str, Route], route: str, member: str, value: str
) -> None:
    assert_names(send(client, routes[route], body_with(routes[route], member, value)), member)


@pytest.mark.parametrize(
    ("route", "member"),
    [("debit", "beneficiary_account_id"), ("transfer", "debit_account_id"), ("transfer", "credit_account_id")],
)
@pytest.mark.parametrize("value", ["999999999", str(2**63 - 1)])
def test_an_unknown_account_in_a_body_is_named(
    client: httpx.Client, routes: dict[str, Route], route: str, member: str, value: str
) -> None:
    answer = send(client, routes[route], body_with(routes[route], member, value))
    assert_names(answer, member, 404)
    assert answer.json()["code"] == "account_not_found"


@pytest.mark.parametrize("direction", ["credit", "debit"])
@pytest.mark.parametrize("value", ["999999999", str(2**63 - 1)])
def test_an_unknown_account_in_a_path_is_named(client: httpx.Client, direction: str, value: str) -> None:
    answer = client.post(f"/v1/accounts/{value}/{direction}", json={"amount_minor": 1}, headers=new_key())
    assert_names(answer, "account_id", 404)


@pytest.mark.parametrize("value", PATH_IDS_REFUSED)
def test_an_id_in_a_path_is_a_whole_number_from_1(client: httpx.Client, value: str) -> None:
    for path in ("", "/balance", "/entries"):
        answer = client.get(f"/v1/accounts/{value}{path}")
        # uvicorn undoes %2F before it splits the path, so that no route may be left.
        if value != "1%2F2":
            assert_names(answer, "account_id")
        else:
            assert answer.status_code == 404
    for direction in ("credit", "debit"):
        answer = client.post(f"/v1/accounts/{value}/{direction}", json={"amount_minor": 1}, headers=new_key())
        assert answer.status_code == (404 if value == "1%2F2" else 400)
    answer = client.get(f"/v1/transactions/{value}")
    if value != "1%2F2":
        assert_names(answer, "transaction_id")


# ---- texts


@pytest.mark.parametrize(("route", "text", "length"), LENGTHS)
def test_a_text_has_a_longest_length(
    client: httpx.Client, routes: dict[str, Route], route: str, text: str, length: int
) -> None:
    for value in ("x" * (length + 1), "🏦" * (length + 1), "x" * 100_000):
        assert_names(send(client, routes[route], body_with(routes[route], text, json.dumps(value))), text)


@pytest.mark.parametrize(("route", "text"), TEXTS)
@pytest.mark.parametrize("value", ["", " ", "\t\n"])
def test_a_text_is_not_blank(client: httpx.Client, routes: dict[str, Route], route: str, text: str, value: str) -> None:
    assert_names(send(client, routes[route], body_with(routes[route], text, json.dumps(value))), text)


@pytest.mark.parametrize(("route", "text"), TEXTS)
@pytest.mark.parametrize("value", ["1", "true", "[]", '["x"]', "{}"])
def test_a_text_is_a_string(client: httpx.Client, routes: dict[str, Route], route: str, text: str, value: str) -> None:
    assert_names(send(client, routes[route], body_with(routes[route], text, value)), text)


NOT_UNICODE = [
    *(rb'"\ud800"', rb'"a\udc00b"', rb'"\ud800\ud800"', rb'"\udc00\ud800"', rb'"\uD83Cx"'),
    *(b'"\xed\xa0\x80"', b'"\xff"', b'"\xc3"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"'),
]


@pytest.mark.parametrize(("route", "text"), [*TEXTS, *((route, "metadata") for route in ROUTES)])
@pytest.mark.parametrize("value", [rb'"\u0000"', rb'"a\u0000b"', rb'"\\\u0000"', *NOT_UNICODE])
def test_a_text_is_unicode_without_nul(
    client: httpx.Client, routes: dict[str, Route], route: str, text: str, value: bytes
) -> None:
    values = [b'{"a": ' + value + b"}", b"{" + value + b": 1}"] if text == "metadata" else [value]
    for each in values:
        assert_names(send(client, routes[route], body_with(routes[route], text, each)), text)


@pytest.mark.parametrize(("route", "text"), [*TEXTS, *((route, "metadata") for route in ROUTES)])
@pytest.mark.parametrize("value", [b'"\x00"', b'"a\nb"', b'"\\x"', b'"\\u12"', b'"'])
def test_a_text_that_is_not_json_is_refused(
    client: httpx.Client, routes: dict[str, Route], route: str, text: str, value: bytes
) -> None:
    each = b'{"a": ' + value + b"}" if text == "metadata" else value
    assert_names(send(client, routes[route], body_with(routes[route], text, each)), "body")


@pytest.mark.parametrize("currency", ["eur", "Eur", "XQQ", "EURO", "€", "EUR ", " EUR", "EUR\n", "E", "E" * 10_000])
def test_a_currency_is_a_known_upper_case_code(client: httpx.Client, routes: dict[str, Route], currency: str) -> None:
    route = routes["open_account"]
    answer = send(client, route, body_with(route, "currency", json.dumps(currency)))
    assert_names(answer, "currency")
    assert answer.json()["code"] == "unknown_currency"


# ---- metadata


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "value",
    [
        *("null", "1", "true", '"x"', "[]", '[{"a": 1}]', '{"a": NaN}', '{"a": Infinity}', '{"a": 1e400}'),
        *('{"a": "' + "x" * 9000 + '"}', '{"a":' * DEPTH + "1" + "}" * DEPTH, "[" * DEPTH + "]" * DEPTH),
        '{"a": ' + "[" * DEPTH + "]" * DEPTH + "}",
    ],
    ids=lambda value: f"{value[:20]}",
)
def test_metadata_is_an_object_that_can_be_stored(
    client: httpx.Client, routes: dict[str, Route], route: str, value: str
) -> None:
    assert_names(send(client, routes[route], body_with(routes[route], "metadata", value)), "metadata")


# ---- bodies


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"}", b"nonsense", b"{'a': 1}", b"\xff"),
        *(b"\x00", b"\xef\xbb\xbf{}", b"[]", b"[1]", b"1", b"1.5", b"NaN", b'"x"', b'"\\ud800"', b"null", b"true"),
        *(b"[" * DEPTH, b"[" * DEPTH + b"]" * DEPTH),
    ],
    ids=lambda body: f"{body[:20]!r}",
)
def test_a_body_is_a_json_object(client: httpx.Client, routes: dict[str, Route], route: str, body: bytes) -> None:
    assert_names(send(client, routes[route], body), "body")


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_is_one_json_object_and_nothing_after_it(
    client: httpx.Client, routes: dict[str, Route], route: str
) -> None:
    valid = json.dumps(routes[route].body).encode()
    for body in (valid[:-1], valid[:-1] + b",}", valid + b" x", valid + valid):
        assert_names(send(client, routes[route], body), "body")


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_is_required(client: httpx.Client, routes: dict[str, Route], route: str) -> None:
    answer = client.post(routes[route].path, headers={**JSON, **new_key()})
    assert_names(answer, "body")


@pytest.mark.parametrize("route", ROUTES)
def test_a_deep_value_of_an_unknown_member_is_refused(
    client: httpx.Client, routes: dict[str, Route], route: str
) -> None:
    deep = '{"a":' * DEPTH + "1" + "}" * DEPTH
    assert_names(send(client, routes[route], body_with(routes[route], "unknown", deep)), "unknown")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("member", ["unknown", "Amount_minor", "amount_minor ", "ledger_id", "idempotency_key", "é"])
def test_an_unknown_member_is_refused(client: httpx.Client, routes: dict[str, Route], route: str, member: str) -> None:
    assert_names(send(client, routes[route], json.dumps({**routes[route].body, member: 1}).encode()), member)


@pytest.mark.parametrize("route", ROUTES)
def test_every_member_that_has_no_default_is_required(
    client: httpx.Client, routes: dict[str, Route], route: str
) -> None:
    for member in routes[route].body:
        body = {name: value for name, value in routes[route].body.items() if name != member}
        assert_names(send(client, routes[route], json.dumps(body).encode()), member)
        assert_names(send(client, routes[route], json.dumps({**body, member: None}).encode()), member)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "text/json", "application/jsonx", "application/x-www-form-urlencoded", "json", "*/*"],
)
def test_a_body_says_that_it_is_json(
    client: httpx.Client, routes: dict[str, Route], route: str, content_type: str | None
) -> None:
    headers = new_key() if content_type is None else {**new_key(), "Content-Type": content_type}
    answer = client.post(routes[route].path, content=json.dumps(routes[route].body).encode(), headers=headers)
    problem_of(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_over_the_limit_is_refused_whether_or_not_it_says_how_large_it_is(
    service: Service, client: httpx.Client, routes: dict[str, Route], route: str
) -> None:
    limit_bytes = service.http.settings.body_bytes_max
    valid = json.dumps(routes[route].body).encode()
    large = valid + b" " * (limit_bytes + 1 - len(valid))

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    for body in (large, chunks()):
        problem = problem_of(send(client, routes[route], body), 413, "payload_too_large")
        assert problem["limit_bytes"] == limit_bytes
    # The limit itself is read, and is refused for what is in it.
    assert_names(send(client, routes[route], b" " * limit_bytes), "body")


def test_a_content_length_over_the_limit_is_refused_before_the_body_has_come(service: Service, admin_key: str) -> None:
    with service.http.connect() as connection:
        lines = ["POST /v1/transfers HTTP/1.1", "Host: x", f"Authorization: Bearer {admin_key}"]
        lines += ["Content-Type: application/json", f"Content-Length: {10**12}", "", "{"]
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


# ---- headers and queries


@pytest.mark.parametrize("route", POSTING_ROUTES)
@pytest.mark.parametrize(
    "key", [b"x" * 256, b"x" * 20_000, "é".encode(), b"\xff", "🏦".encode(), b"a\tb"], ids=lambda key: f"{key[:10]!r}"
)
def test_an_idempotency_key_is_at_most_255_printable_ascii_characters(
    client: httpx.Client, routes: dict[str, Route], route: str, key: bytes
) -> None:
    headers = {b"Idempotency-Key": key, b"Content-Type": b"application/json"}
    answer = client.post(routes[route].path, content=json.dumps(routes[route].body).encode(), headers=headers)
    assert_names(answer, "idempotency_key")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "idempotency_key"),
        ("idempotency_key=a&idempotency_key=b", "idempotency_key"),
        ("idempotency_key=a%00", "idempotency_key"),
        ("idempotency_key=a&unknown=1", "unknown"),
        ("idempotency_key=a&idempotency_ke%79=b", "idempotency_key"),
    ],
)
def test_a_lookup_has_one_key_and_nothing_else(client: httpx.Client, query: str, field: str) -> None:
    assert_names(client.get(f"/v1/transactions?{query}"), field)


@pytest.mark.parametrize("key", ["", "%FF", "%ED%A0%80", "x" * 300])
def test_a_key_that_no_transaction_can_have_is_not_found(client: httpx.Client, key: str) -> None:
    assert_names(client.get(f"/v1/transactions?idempotency_key={key}"), "idempotency_key", 404)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=1&limit=2", "limit"),
        ("limit=1,2", "limit"),
        ("cursor=djM&cursor=djM", "cursor"),
        ("unknown=1", "unknown"),
        ("Limit=1", "Limit"),
        ("offset=1", "offset"),
    ],
)
def test_a_statement_has_one_limit_and_one_cursor_and_nothing_else(
    client: httpx.Client, routes: dict[str, Route], query: str, field: str
) -> None:
    account_id = routes["transfer"].body["debit_account_id"]
    assert_names(client.get(f"/v1/accounts/{account_id}/entries?{query}"), field)


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /v1/accounts/\x00 HTTP/1.1",
        b"GET /v1/accounts/\xff HTTP/1.1",
        b"GET /v1/transactions?idempotency_key=\xff HTTP/1.1",
        b"GET /v1/accounts/1 HTTP/9.9",
        b"nonsense",
    ],
)
def test_what_is_not_http_is_answered_with_400(service: Service, request_line: bytes) -> None:
    with service.http.connect() as connection:
        connection.sendall(request_line + b"\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
