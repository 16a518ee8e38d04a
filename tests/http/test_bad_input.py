"""Nonsense from outside gets a 4xx that names the field, and posts nothing."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.conftest import Connection
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


# Numbers are refused whatever they are: a rate is a string.
RATES_REFUSED = [
    *("1.5", "1", "0.1", "1e3", "true", "null", "[]", '""', '"0"', '"0.00"', '"-1"', '"+1"', '"1,5"', '".5"', '"5."'),
    *('"1e3"', '"NaN"', '"Infinity"', '" 1"', '"1 "', '"1\\n"', '"x"', '"\u0663"', '"1.5.5"', f'"{10**18}"'),
    f'"0.{"0" * 100}1"',
]
TIMES_REFUSED = [
    *("1", "true", "[]", '""', '"tomorrow"', '"2090-01-01"', '"2090-01-01T00:00:00"', '"2090-13-01T00:00:00Z"'),
    *('"infinity"', '"2020-01-01T00:00:00Z"', '"0001-01-01T00:00:00+23:59"', '"99999-01-01T00:00:00Z"'),
]
BOOLEANS_REFUSED = ["1", "0", '"true"', '"t"', "null", "[]"]


class Route(NamedTuple):
    """A route that takes a body: its path, a valid body, its method."""

    path: str
    body: dict[str, Any]
    method: str = "POST"


BASIC_ROUTES = ["open_account", "credit", "debit", "transfer"]
POSTING_ROUTES = [
    *("credit", "debit", "transfer", "authorise", "capture", "void", "reverse", "post_legs", "exchange", "sweep"),
    "transfer_to_ledger",
]
CHANGE_ROUTES = ["freeze", "unfreeze", "close", "reopen", "set_limit"]
ROUTES = ["open_account", *POSTING_ROUTES, "explain", *CHANGE_ROUTES]
METADATA_ROUTES = ["open_account", *POSTING_ROUTES]
POSTING_TEXTS = {"description": 500, "external_id": 255}
TEXTS = [
    *(("open_account", name) for name in ("holder_name", "currency", "external_id", "account_type")),
    *((name, text) for name in POSTING_ROUTES for text in POSTING_TEXTS),
    *((name, "reason") for name in CHANGE_ROUTES),
]
LENGTHS = [
    (route, text, length)
    for route, text in TEXTS
    if text not in ("currency", "account_type")
    for length in [{"holder_name": 100, "reason": 500, **POSTING_TEXTS}[text]]
]
AMOUNTS = [
    *((route, "amount_minor") for route in ("credit", "debit", "transfer", "authorise", "capture", "reverse")),
    *((route, "amount_minor") for route in ("exchange", "transfer_to_ledger", "explain")),
    ("sweep", "at_most_minor"),
]
OPTIONAL_AMOUNTS = [("capture", "amount_minor"), ("reverse", "amount_minor"), ("sweep", "at_most_minor")]
SIDES = ("debit_account_id", "credit_account_id")
ACCOUNT_IDS = [
    *(("debit", "beneficiary_account_id"), ("authorise", "account_id"), ("authorise", "beneficiary_account_id")),
    *((route, side) for route in ("transfer", "exchange", "sweep", "transfer_to_ledger", "explain") for side in SIDES),
]
BOOLEANS = [("capture", "final"), ("reverse", "force"), ("freeze", "debits"), ("freeze", "credits")]


@pytest.fixture(scope="module")
def routes(client: httpx.Client, database: Connection) -> dict[str, Route]:
    one, two = open_account(client, balance_minor=1000), open_account(client, balance_minor=1000)
    dollars, amount = open_account(client, "USD"), {"amount_minor": 1}
    sides = {"debit_account_id": one, "credit_account_id": two}
    account, hold = f"/v1/accounts/{one}", {"account_id": one, **amount}
    hold_path = f"/v1/holds/{client.post('/v1/holds', json=hold, headers=new_key()).json()['transaction_id']}"
    paid = client.post("/v1/transfers", json={**sides, **amount}, headers=new_key()).json()["transaction_id"]
    exchange = {"debit_account_id": one, "credit_account_id": dollars, **amount, "rate": "1.5"}
    other_ledger = {**sides, "credit_account_id": dollars, "credit_ledger_id": 1, **amount}
    # What exchanges and transfers to another ledger go through comes with the first.
    client.post("/v1/exchanges", json=exchange, headers=new_key()).raise_for_status()
    client.post("/v1/ledger-transfers", json=other_ledger, headers=new_key())
    return {
        "open_account": Route("/v1/accounts", {"holder_name": "Ada", "currency": "EUR"}),
        "credit": Route(f"{account}/credit", amount),
        "debit": Route(f"{account}/debit", amount),
        "transfer": Route("/v1/transfers", {**sides, **amount}),
        "explain": Route("/v1/transfers/explain", {**sides, **amount}),
        "authorise": Route("/v1/holds", hold),
        "capture": Route(f"{hold_path}/capture", {}),
        "void": Route(f"{hold_path}/void", {}),
        "reverse": Route(f"/v1/transactions/{paid}/reverse", {}),
        "post_legs": Route("/v1/transactions", {"legs": [leg(one, -1), leg(two, 1)]}),
        "exchange": Route("/v1/exchanges", exchange),
        "sweep": Route("/v1/sweeps", sides),
        "transfer_to_ledger": Route("/v1/ledger-transfers", other_ledger),
        "freeze": Route(f"{account}/freeze", {}),
        "unfreeze": Route(f"{account}/unfreeze", {}),
        "close": Route(f"{account}/close", {}),
        "reopen": Route(f"{account}/reopen", {}),
        "set_limit": Route(f"{account}/limits/day", {}, "PUT"),
    }


def leg(account_id: int, amount_minor: int) -> dict[str, int]:
    return {"account_id": account_id, "amount_minor": amount_minor}


@pytest.fixture(autouse=True)
def _checked(routes: dict[str, Route], request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test here: after the accounts are there, nothing is posted, opened or changed."""
    request.getfixturevalue("nothing_is_posted")
    database = request.getfixturevalue("database")
    query = """
        select (select count(*) from bank.account) as accounts, (select count(*) from bank.hold) as holds,
            (select count(*) from bank.account_change) as changes
    """
    before = database.execute(query).fetchone()
    yield
    assert database.execute(query).fetchone() == before


def send(client: httpx.Client, route: Route, body: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    """Send these bytes as JSON."""
    return client.request(route.method, route.path, content=body, headers={**JSON, **new_key(), **headers})


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


@pytest.mark.parametrize(("route", "member"), AMOUNTS)
def test_an_amount_is_a_whole_number_of_minor_units_in_the_exact_range(
    client: httpx.Client, routes: dict[str, Route], route: str, member: str
) -> None:
    for amount in AMOUNTS_REFUSED:
        if amount != "null" or (route, member) not in OPTIONAL_AMOUNTS:
            assert_names(send(client, routes[route], body_with(routes[route], member, amount)), member)


@pytest.mark.parametrize(
    ("route", "member"),
    [("open_account", "overdraft_limit_minor"), ("authorise", "tolerance_minor"), ("set_limit", "count_max")],
)
def test_a_limit_is_a_whole_number_from_0(
    client: httpx.Client, routes: dict[str, Route], route: str, member: str
) -> None:
    for limit in LIMITS_REFUSED:
        assert_names(send(client, routes[route], body_with(routes[route], member, limit)), member)


def test_a_limit_of_an_account_is_a_whole_number(client: httpx.Client, routes: dict[str, Route]) -> None:
    for limit in LIMITS_REFUSED:
        answer = send(client, routes["set_limit"], body_with(routes["set_limit"], "amount_max_minor", limit))
        assert_names(answer, "amount_max_minor")


@pytest.mark.parametrize("kind", ["x", "Day", "days", "day%20", "%20", "%00", "day%00", "%FF", "\u0663", "x" * 5000])
def test_a_limit_has_a_known_kind(client: httpx.Client, routes: dict[str, Route], kind: str) -> None:
    route = routes["set_limit"]
    answer = client.put(route.path.replace("/day", f"/{kind}"), json={"amount_max_minor": 1})
    assert_names(answer, "limit_kind")


def test_a_count_is_for_windows(client: httpx.Client, routes: dict[str, Route]) -> None:
    for kind in ("overdraft", "minimum_balance", "maximum_balance", "transaction"):
        path = routes["set_limit"].path.replace("/day", f"/{kind}")
        assert_names(client.put(path, json={"count_max": 1}), "count_max")


@pytest.mark.parametrize(("route", "member"), BOOLEANS)
def test_a_choice_is_true_or_false(client: httpx.Client, routes: dict[str, Route], route: str, member: str) -> None:
    for value in BOOLEANS_REFUSED:
        assert_names(send(client, routes[route], body_with(routes[route], member, value)), member)


def test_a_freeze_stops_something(client: httpx.Client, routes: dict[str, Route]) -> None:
    assert_names(send(client, routes["freeze"], b'{"debits": false, "credits": false}'), "debits")


@pytest.mark.parametrize("rate", RATES_REFUSED)
def test_a_rate_is_a_string_of_a_decimal_number(client: httpx.Client, routes: dict[str, Route], rate: str) -> None:
    route = routes["exchange"]
    assert_names(send(client, route, body_with(route, "rate", rate)), "rate")


@pytest.mark.parametrize("deadline", TIMES_REFUSED)
def test_a_deadline_is_a_time_to_come_with_its_zone(
    client: httpx.Client, routes: dict[str, Route], deadline: str
) -> None:
    route = routes["authorise"]
    assert_names(send(client, route, body_with(route, "expires_at", deadline)), "expires_at")


@pytest.mark.parametrize(("route", "member"), [*ACCOUNT_IDS, ("transfer_to_ledger", "credit_ledger_id")])
def test_an_account_in_a_body_is_a_whole_number_from_1(
    client: httpx.Client, routes: dict[str, Route], route: str, member: str
) -> None:
    for value in IDS_REFUSED:
        assert_names(send(client, routes[route], body_with(routes[route], member, value)), member)


@pytest.mark.parametrize(("route", "member"), ACCOUNT_IDS)
def test_an_unknown_account_in_a_body_is_named(
    client: httpx.Client, routes: dict[str, Route], route: str, member: str
) -> None:
    for value in ("999999999", str(2**63 - 1)):
        answer = send(client, routes[route], body_with(routes[route], member, value))
        assert_names(answer, member, 404)
        assert answer.json()["code"] == "account_not_found"


# ---- legs


LEGS_REFUSED = [
    *(("null", "legs"), ("{{}}", "legs"), ("1", "legs"), ("[]", "legs"), ("[{one}, 1]", "legs[1]")),
    *(
        ("[{one}]", "legs"),
        ("[{one}, {one}]", "legs"),
        ("[{one}, {zero}]", "legs"),
        ("[" + "{one}," * 1000 + "{one}]", "legs"),
    ),
    *(("[{one}, null]", "legs[1]"), ("[{one}, {{}}]", "legs[1].account_id"), ("[[], {one}]", "legs[0]")),
    ('[{one}, {{"account_id": 1, "amount_minor": -1.0}}]', "legs[1].amount_minor"),
    ('[{one}, {{"account_id": 1, "amount_minor": "-1"}}]', "legs[1].amount_minor"),
    ('[{one}, {{"account_id": 1, "amount_minor": -9007199254740992}}]', "legs[1].amount_minor"),
    ('[{one}, {{"account_id": 0, "amount_minor": -1}}]', "legs[1].account_id"),
    ('[{one}, {{"account_id": 1, "amount_minor": -1, "colour": "red"}}]', "legs[1].colour"),
]


@pytest.mark.parametrize(("legs", "field"), LEGS_REFUSED, ids=lambda value: f"{value[:70]}")
def test_legs_are_two_or_more_whole_amounts_that_sum_to_zero(
    client: httpx.Client, routes: dict[str, Route], legs: str, field: str
) -> None:
    route = routes["post_legs"]
    [debited, _] = route.body["legs"]
    text = legs.format(one=json.dumps(leg(debited["account_id"], 1)), zero=json.dumps(leg(debited["account_id"], 0)))
    assert_names(send(client, route, body_with(route, "legs", text)), field)


def test_an_unknown_account_in_legs_is_named(client: httpx.Client) -> None:
    answer = client.post("/v1/transactions", json={"legs": [leg(999999998, 1), leg(999999999, -1)]}, headers=new_key())
    assert_names(answer, "legs", 404)
    assert answer.json()["account_id"] == 999999998


@pytest.mark.parametrize(
    ("conditions", "field"),
    [
        *(
            ("null", "conditions"),
            ("{{}}", "conditions"),
            ("[1]", "conditions[0]"),
            ("[{{}}]", "conditions[0].account_id"),
        ),
        ('[{{"account_id": {one}}}, {{"account_id": {one}, "version": -1}}]', "conditions[1].version"),
        ('[{{"account_id": {one}, "version": 1.0}}]', "conditions[0].version"),
        ('[{{"account_id": {one}, "balance_at_least_minor": "1"}}]', "conditions[0].balance_at_least_minor"),
        ('[{{"account_id": {one}, "balance_at_most_minor": 9007199254740992}}]', "conditions[0].balance_at_most_minor"),
        ('[{{"account_id": {one}, "colour": 1}}]', "conditions[0].colour"),
        ('[{{"account_id": 999999999}}]', "conditions"),
        ("[" + '{{"account_id": {one}}},' * 1000 + '{{"account_id": {one}}}]', "conditions"),
    ],
    ids=lambda value: f"{value[:70]}",
)
def test_conditions_are_about_accounts_that_have_legs(
    client: httpx.Client, routes: dict[str, Route], conditions: str, field: str
) -> None:
    route = routes["post_legs"]
    text = conditions.format(one=route.body["legs"][0]["account_id"])
    assert_names(send(client, route, body_with(route, "conditions", text)), field)


# ---- ids in paths


@pytest.mark.parametrize("direction", ["credit", "debit"])
@pytest.mark.parametrize("value", ["999999999", str(2**63 - 1)])
def test_an_unknown_account_in_a_path_is_named(client: httpx.Client, direction: str, value: str) -> None:
    answer = client.post(f"/v1/accounts/{value}/{direction}", json={"amount_minor": 1}, headers=new_key())
    assert_names(answer, "account_id", 404)


@pytest.mark.parametrize("value", PATH_IDS_REFUSED)
def test_an_id_in_a_path_is_a_whole_number_from_1(client: httpx.Client, value: str) -> None:
    for path in ("", "/balance", "/entries", "/limits", "/changes"):
        answer = client.get(f"/v1/accounts/{value}{path}")
        # uvicorn undoes %2F before it splits the path, so that no route may be left.
        if value != "1%2F2":
            assert_names(answer, "account_id")
        else:
            assert answer.status_code == 404
    for direction in ("credit", "debit"):
        answer = client.post(f"/v1/accounts/{value}/{direction}", json={"amount_minor": 1}, headers=new_key())
        assert answer.status_code == (404 if value == "1%2F2" else 400)
    for change in ("freeze", "unfreeze", "close", "reopen"):
        answer = client.post(f"/v1/accounts/{value}/{change}", json={})
        assert answer.status_code == (404 if value == "1%2F2" else 400)
    if value != "1%2F2":
        assert_names(client.put(f"/v1/accounts/{value}/limits/day", json={}), "account_id")
        assert_names(client.get(f"/v1/transactions/{value}"), "transaction_id")
        assert_names(client.get(f"/v1/holds/{value}"), "hold_id")
        for action in ("capture", "void"):
            assert_names(client.post(f"/v1/holds/{value}/{action}", json={}, headers=new_key()), "hold_id")
        answer = client.post(f"/v1/transactions/{value}/reverse", json={}, headers=new_key())
        assert_names(answer, "transaction_id")


def test_what_is_not_there_is_named(client: httpx.Client) -> None:
    for value in ("999999999", str(2**63 - 1)):
        for path, field in [
            (f"/v1/holds/{value}/capture", "hold_id"),
            (f"/v1/holds/{value}/void", "hold_id"),
            (f"/v1/transactions/{value}/reverse", "transaction_id"),
            *((f"/v1/accounts/{value}/{change}", "account_id") for change in ("freeze", "unfreeze", "close", "reopen")),
        ]:
            assert_names(client.post(path, json={}, headers=new_key()), field, 404)
        for path, field in [
            *((f"/v1/holds/{value}", "hold_id"), (f"/v1/transactions/{value}", "transaction_id")),
            *((f"/v1/accounts/{value}/limits", "account_id"), (f"/v1/accounts/{value}/changes", "account_id")),
        ]:
            assert_names(client.get(path), field, 404)
        assert_names(client.put(f"/v1/accounts/{value}/limits/day", json={}), "account_id", 404)


# ---- texts


@pytest.mark.parametrize(("route", "text", "length"), LENGTHS)
def test_a_text_has_a_longest_length(
    client: httpx.Client, routes: dict[str, Route], route: str, text: str, length: int
) -> None:
    for value in ("x" * (length + 1), "🏦" * (length + 1), "x" * 100_000):
        assert_names(send(client, routes[route], body_with(routes[route], text, json.dumps(value))), text)


@pytest.mark.parametrize(("route", "text"), TEXTS)
def test_a_text_is_not_blank(client: httpx.Client, routes: dict[str, Route], route: str, text: str) -> None:
    for value in ("", " ", "\t\n"):
        assert_names(send(client, routes[route], body_with(routes[route], text, json.dumps(value))), text)


@pytest.mark.parametrize(("route", "text"), TEXTS)
def test_a_text_is_a_string(client: httpx.Client, routes: dict[str, Route], route: str, text: str) -> None:
    for value in ("1", "true", "[]", '["x"]', "{}"):
        assert_names(send(client, routes[route], body_with(routes[route], text, value)), text)


NOT_UNICODE = [
    *(rb'"\ud800"', rb'"a\udc00b"', rb'"\ud800\ud800"', rb'"\udc00\ud800"', rb'"\uD83Cx"'),
    *(b'"\xed\xa0\x80"', b'"\xff"', b'"\xc3"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"'),
]


@pytest.mark.parametrize(("route", "text"), [*TEXTS, *((route, "metadata") for route in METADATA_ROUTES)])
def test_a_text_is_unicode_without_nul(client: httpx.Client, routes: dict[str, Route], route: str, text: str) -> None:
    values = [rb'"\u0000"', rb'"a\u0000b"', rb'"\\\u0000"', *NOT_UNICODE]
    if text == "metadata":
        values = [each for value in values for each in (b'{"a": ' + value + b"}", b"{" + value + b": 1}")]
    for each in values:
        assert_names(send(client, routes[route], body_with(routes[route], text, each)), text)


@pytest.mark.parametrize(("route", "text"), [*TEXTS, *((route, "metadata") for route in METADATA_ROUTES)])
def test_a_text_that_is_not_json_is_refused(
    client: httpx.Client, routes: dict[str, Route], route: str, text: str
) -> None:
    for value in (b'"\x00"', b'"a\nb"', b'"\\x"', b'"\\u12"', b'"'):
        each = b'{"a": ' + value + b"}" if text == "metadata" else value
        assert_names(send(client, routes[route], body_with(routes[route], text, each)), "body")


@pytest.mark.parametrize("currency", ["eur", "Eur", "XQQ", "EURO", "€", "EUR ", " EUR", "EUR\n", "E", "E" * 10_000])
def test_a_currency_is_a_known_upper_case_code(client: httpx.Client, routes: dict[str, Route], currency: str) -> None:
    route = routes["open_account"]
    answer = send(client, route, body_with(route, "currency", json.dumps(currency)))
    assert_names(answer, "currency")
    assert answer.json()["code"] == "unknown_currency"


# ---- metadata


METADATA_REFUSED = [
    *("null", "1", "true", '"x"', "[]", '[{"a": 1}]', '{"a": NaN}', '{"a": Infinity}', '{"a": 1e400}'),
    *('{"a": "' + "x" * 9000 + '"}', '{"a":' * DEPTH + "1" + "}" * DEPTH, "[" * DEPTH + "]" * DEPTH),
    '{"a": ' + "[" * DEPTH + "]" * DEPTH + "}",
    # What JSON can say and numeric cannot hold.
    *('{"a": 1e-20000}', '{"a": [{"b": -1.5E-16384}]}', '{"a": 0e-16384}', '{"a": 0e99999999999999999999}'),
    *('{"a": 1e-99999999999999999999}', '{"a": 0.' + "0" * 16_384 + "}", '{"a": 1.' + "1" * 16_384 + "}"),
    *('{"a": ' + "9" * 140_000 + "}", '{"a": ' + "[" * 600 + "]" * 600 + "}", '{"a":' * 501 + "{}" + "}" * 501),
]
BODIES_REFUSED = [
    *(b"", b" ", b"{", b"}", b"nonsense", b"{'a': 1}", b"\xff"),
    *(b"\x00", b"\xef\xbb\xbf{}", b"[]", b"[1]", b"1", b"1.5", b"NaN", b'"x"', b'"\\ud800"', b"null", b"true"),
    *(b"[" * DEPTH, b"[" * DEPTH + b"]" * DEPTH),
]


@pytest.mark.parametrize("route", METADATA_ROUTES)
def test_metadata_is_an_object_that_can_be_stored(client: httpx.Client, routes: dict[str, Route], route: str) -> None:
    for value in METADATA_REFUSED:
        assert_names(send(client, routes[route], body_with(routes[route], "metadata", value)), "metadata")


@pytest.mark.parametrize("route", METADATA_ROUTES)
def test_metadata_refused_unread_is_refused_as_by_the_database(
    client: httpx.Client, routes: dict[str, Route], route: str
) -> None:
    answers = [
        send(client, routes[route], body_with(routes[route], "metadata", '{"a": "' + "x" * size + '"}'))
        for size in (9000, 65_536)
    ]
    by_database, unread = [{**problem_of(each, 400, "invalid_argument"), "request_id": ""} for each in answers]
    assert unread == by_database


# ---- bodies


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_is_a_json_object(client: httpx.Client, routes: dict[str, Route], route: str) -> None:
    for body in BODIES_REFUSED:
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
    answer = client.request(routes[route].method, routes[route].path, headers={**JSON, **new_key()})
    assert_names(answer, "body")


@pytest.mark.parametrize("route", ROUTES)
def test_a_deep_value_of_an_unknown_member_is_refused(
    client: httpx.Client, routes: dict[str, Route], route: str
) -> None:
    deep = '{"a":' * DEPTH + "1" + "}" * DEPTH
    assert_names(send(client, routes[route], body_with(routes[route], "unknown", deep)), "unknown")


@pytest.mark.parametrize("route", ROUTES)
def test_an_unknown_member_is_refused(client: httpx.Client, routes: dict[str, Route], route: str) -> None:
    for member in ("unknown", "Amount_minor", "amount_minor ", "ledger_id", "idempotency_key", "changed_by", "é"):
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
def test_a_body_says_that_it_is_json(client: httpx.Client, routes: dict[str, Route], route: str) -> None:
    path, body, method = routes[route]
    for content_type in (
        *(None, "", "text/plain", "text/json", "application/jsonx", "application/x-www-form-urlencoded", "json", "*/*"),
    ):
        headers = new_key() if content_type is None else {**new_key(), "Content-Type": content_type}
        answer = client.request(method, path, content=json.dumps(body).encode(), headers=headers)
        problem_of(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("route", BASIC_ROUTES)
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
def test_an_idempotency_key_is_at_most_255_printable_ascii_characters(
    client: httpx.Client, routes: dict[str, Route], route: str
) -> None:
    for key in (b"x" * 256, b"x" * 16_000, "é".encode(), b"\xff", "🏦".encode(), b"a\tb"):
        headers = {b"Idempotency-Key": key, b"Content-Type": b"application/json"}
        answer = client.post(routes[route].path, content=json.dumps(routes[route].body).encode(), headers=headers)
        assert_names(answer, "idempotency_key")


@pytest.mark.parametrize("route", POSTING_ROUTES)
def test_nothing_is_posted_without_an_idempotency_key(
    client: httpx.Client, routes: dict[str, Route], route: str
) -> None:
    for query in ("", "?dry_run=true"):
        answer = client.post(routes[route].path + query, json=routes[route].body)
        assert_names(answer, "idempotency_key")
        assert answer.json()["code"] == "idempotency_key_required"


@pytest.mark.parametrize("route", ROUTES)
def test_a_slip_in_the_query_does_not_make_a_dry_run_a_real_one(
    client: httpx.Client, routes: dict[str, Route], route: str
) -> None:
    queries = [("dryrun=true", "dryrun"), ("Dry_run=true", "Dry_run"), ("x", "x")]
    values = ("1", "yes", "True", "", "true,true", "true&dry_run=true", "true&dry_run=false", "%00")
    queries += [(f"dry_run={value}", "dry_run") for value in values]
    if route not in POSTING_ROUTES:
        queries.append(("dry_run=true", "dry_run"))
    for query, field in queries:
        path = f"{routes[route].path}?{query}"
        answer = client.request(routes[route].method, path, json=routes[route].body, headers=new_key())
        assert_names(answer, field)


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
