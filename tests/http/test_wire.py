"""What a request looks like on the wire: one spelling of each path, each header and member once, HEAD and OPTIONS."""

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from service import app
from tests.conftest import Bank, Connection
from tests.http.conftest import Service, balance_of, fields_of, new_key, open_account, problem_of
from tests.http_server import HttpServer, create_key

Answer = tuple[int, dict[str, str], bytes]


def exchange(service: Service, head: str, body: bytes = b"") -> Answer:
    """Send bytes, and read all that comes until the service closes: nothing may follow the answer."""
    with service.http.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
        answer = file.read()
    head_of_answer, _, content = answer.partition(b"\r\n\r\n")
    status_line, *lines = head_of_answer.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status_line.split()[1]), headers, content


def ask(service: Service, method: str, target: str, *headers: str, host: str | None = "x", body: bytes = b"") -> Answer:
    """Send one request on a connection of its own."""
    lines = [f"{method} {target} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return exchange(service, "\n".join([*lines, "Connection: close"]), body)


def code_of(answer: Answer) -> tuple[int, str, list[str]]:
    problem = json.loads(answer[2])
    return answer[0], problem["code"], [error["field"] for error in problem.get("errors", [])]


@pytest.fixture
def bearer(admin_key: str) -> str:
    return f"Authorization: Bearer {admin_key}"


# ---- paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "//metrics",
        "///metrics",
        "/%6detrics",
        "/%6Detrics",
        "/metrics/",
        "/metrics//",
        "/./metrics",
        "/x/../metrics",
        "/%2e/metrics",
        "/%2Fmetrics",
        "/metric%73",
        "/metrics;x",
        "/metrics%00",
        "/metrics%20",
        "/METRICS",
        "//health/live",
        "/health//live",
        "/health%2Flive",
        "/health/%6Cive",
    ],
)
def test_a_path_in_another_spelling_is_not_found(service: Service, target: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        assert code_of(ask(service, method, target))[:2] == (404, "not_found")
    assert ask(service, "HEAD", target)[0] == 404


@pytest.mark.parametrize(
    "spelling", ["//v1/accounts/{}", "/%761/accounts/{}", "/v1/account%73/{}", "/v1/accounts/{}/", "/v1//accounts/{}"]
)
def test_a_path_of_the_api_in_another_spelling_is_not_found(
    service: Service, client: httpx.Client, bearer: str, spelling: str
) -> None:
    account_id = open_account(client)
    for path in (spelling, spelling + "/balance", spelling + "%2Fbalance"):
        answer = ask(service, "GET", path.format(account_id), bearer)
        assert code_of(answer)[:2] == (404, "not_found")


def test_a_number_in_a_path_is_written_in_digits(service: Service, client: httpx.Client, bearer: str) -> None:
    account_id = open_account(client)
    encoded = "".join(f"%{ord(digit):x}" for digit in str(account_id))
    for path in ("/v1/accounts/{}", "/v1/accounts/{}/balance", "/v1/transactions/{}", "/v1/holds/{}"):
        assert code_of(ask(service, "GET", path.format(encoded), bearer))[:2] == (404, "not_found")
    frozen = ask(service, "POST", f"/v1/accounts/{encoded}/freeze", bearer, body=b"{}")
    assert code_of(frozen)[:2] == (404, "not_found")


def test_a_text_in_a_path_may_be_percent_encoded(service: Service, client: httpx.Client, bearer: str) -> None:
    account_id = open_account(client)
    body = b'{"amount_max_minor": 5}'
    assert ask(service, "PUT", f"/v1/accounts/{account_id}/limits/d%61y", bearer, body=body)[0] == 200
    assert code_of(ask(service, "PUT", f"/v1/accounts/{account_id}/limits/d%2Fy", bearer, body=body))[0] == 404


def test_the_whole_url_may_be_the_target_as_http_has_it(service: Service) -> None:
    assert ask(service, "GET", "http://x/health/live")[0] == 200
    assert ask(service, "GET", "http://x//metrics")[0] == 404


def test_a_fragment_is_no_part_of_a_request(service: Service) -> None:
    for target in ("/metrics#x", "/metrics?#", "/health/live#"):
        assert code_of(ask(service, "GET", target)) == (400, "invalid_request", ["request"])


# ---- queries -----------------------------------------------------------------------------------------------


def gets() -> list[str]:
    """Every path that has a GET, with 1 for each parameter."""
    routes = re.findall(r"add_route\(\"([^\"]+)\", (.*)\)\n", inspect.getsource(app))
    names = [(path, re.findall(r"(\w+)\(", made) or ["Ready"]) for path, made in routes]
    return [
        re.sub(r"{\w+}", "1", path)
        for path, classes in names
        if any(hasattr(getattr(app, name), "on_get") for name in classes)
    ]


def test_the_paths_of_these_tests_are_found() -> None:
    assert {"/metrics", "/health/ready", "/v1/transactions", "/v1/holds/1", "/v1/accounts/1/limits"} <= set(gets())


@pytest.mark.parametrize("path", gets())
@pytest.mark.parametrize("query", ["ledger_id=2", "x", "x=", "x=1&x=2", "=1", "%00=1", "x=%ff"])
def test_a_get_refuses_a_parameter_that_nobody_reads(client: httpx.Client, path: str, query: str) -> None:
    answer = client.get(f"{path}?{query}")
    assert answer.status_code == 400
    assert len(fields_of(problem_of(answer, 400, "invalid_request"))) == 1
    assert client.head(f"{path}?{query}").status_code == 400


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/v1/accounts/1/balance", "currency=EUR", "currency"),
        ("/v1/accounts/1", "verbose", "verbose"),
        ("/metrics", "name=x", "name"),
        ("/health/ready", "timeout=1", "timeout"),
        ("/v1/accounts/1/entries", "limit=1&limit=2", "limit"),
        ("/v1/transactions", "idempotency_key=a&idempotency_key=a", "idempotency_key"),
        ("/v1/accounts/1", "=", "query"),
        ("/v1/accounts/1/entries", "=1&limit=1", "query"),
    ],
)
def test_the_parameter_is_named(client: httpx.Client, path: str, query: str, field: str) -> None:
    assert fields_of(problem_of(client.get(f"{path}?{query}"), 400, "invalid_request")) == [field]


# ---- headers -----------------------------------------------------------------------------------------------


def credit(service: Service, account_id: int, *headers: str, body: bytes = b'{"amount_minor": 1}') -> Answer:
    return ask(service, "POST", f"/v1/accounts/{account_id}/credit", *headers, body=body)


@pytest.mark.parametrize("second", ["a", "b", ""])
def test_a_key_is_given_once(service: Service, client: httpx.Client, bearer: str, second: str) -> None:
    account_id = open_account(client)
    answer = credit(service, account_id, bearer, "Idempotency-Key: a", f"idempotency-key: {second}")
    assert code_of(answer) == (400, "invalid_request", ["idempotency_key"])
    assert balance_of(client, account_id) == 0


@pytest.mark.parametrize("name", ["Host", "Authorization", "Content-Encoding", "Content-Type"])
def test_other_headers_that_are_meant_to_be_one_are_given_once(
    service: Service, client: httpx.Client, bearer: str, name: str
) -> None:
    account_id = open_account(client)
    given = {"Content-Encoding": "identity", "Content-Type": "application/json", "Host": "x"}
    headers = [bearer, "Idempotency-Key: a"]
    more = (
        [bearer] if name == "Authorization" else [f"{name}: {given[name]}"] * (1 if name != "Content-Encoding" else 2)
    )
    answer = credit(service, account_id, *headers, *more)
    assert code_of(answer) == (400, "invalid_request", [name.lower().replace("-", "_")])
    assert balance_of(client, account_id) == 0


def test_headers_that_are_lists_may_be_repeated(service: Service) -> None:
    assert ask(service, "GET", "/health/live", "Accept: a/b", "Accept: c/d", "Via: 1.1 a", "Via: 1.1 b")[0] == 200


@pytest.mark.parametrize("blank", ["\xa0", "\x0c", "\x0b", "\x1c", "\x1f", "\x85"])
def test_a_blank_that_is_not_https_is_no_blank(service: Service, client: httpx.Client, bearer: str, blank: str) -> None:
    account_id = open_account(client)
    for key in (f"a{blank}", f"{blank}a", blank):
        answer = credit(service, account_id, bearer, f"Idempotency-Key: {key}")
        assert answer[0] == 400
        assert code_of(answer)[2] in (["idempotency_key"], ["request"])  # the latter, when it is not HTTP at all
    assert balance_of(client, account_id) == 0


@pytest.mark.parametrize("blank", ["\xa0", "\x0c", "\x0b", "\x1c", "\x1f", "\x85"])
def test_an_api_key_with_a_blank_that_is_not_https_is_another_key(
    service: Service, client: httpx.Client, bearer: str, blank: str
) -> None:
    path, scheme = f"/v1/accounts/{open_account(client)}/balance", "Authorization: Bearer "
    key = bearer.removeprefix(scheme)
    assert ask(service, "GET", path, f"{scheme}\t {key} \t")[0] == 200
    for text in (f"{key}{blank}", f"{blank}{key}"):
        answer = ask(service, "GET", path, scheme + text)
        assert answer[0] in (401, 400)  # the latter, when it is not HTTP at all


def test_blanks_around_a_key_are_not_part_of_it(service: Service, client: httpx.Client, bearer: str) -> None:
    account_id, key = open_account(client), new_key()["Idempotency-Key"]
    answers = [
        credit(service, account_id, bearer, f"Idempotency-Key:{key}") for key in (key, f"  {key}", f"\t{key} \t")
    ]
    assert [status for status, _, _ in answers] == [201, 200, 200]
    inner = [credit(service, account_id, bearer, f"Idempotency-Key: {text}") for text in (f"{key} x", f"{key}  x")]
    assert [status for status, _, _ in inner] == [201, 201]


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP", "identity, gzip", "x", "identity;q=1"])
def test_a_body_that_is_encoded_is_415(service: Service, client: httpx.Client, bearer: str, encoding: str) -> None:
    account_id = open_account(client)
    answer = credit(service, account_id, bearer, "Idempotency-Key: a", f"Content-Encoding: {encoding}")
    assert code_of(answer)[:2] == (415, "unsupported_media_type")
    assert answer[1]["accept-encoding"] == "identity"
    assert balance_of(client, account_id) == 0


@pytest.mark.parametrize("encoding", ["identity", "Identity", " identity\t", ""])
def test_a_body_may_say_that_it_is_not_encoded(
    service: Service, client: httpx.Client, bearer: str, encoding: str
) -> None:
    key = new_key()["Idempotency-Key"]
    headers = (bearer, f"Idempotency-Key: {key}", f"Content-Encoding: {encoding}")
    assert credit(service, open_account(client), *headers)[0] == 201


def test_a_request_of_http_1_1_has_a_host(service: Service) -> None:
    assert code_of(ask(service, "GET", "/health/live", host=None)) == (400, "invalid_request", ["host"])
    assert code_of(ask(service, "GET", "http://x/health/live", host=None)) == (400, "invalid_request", ["host"])
    assert ask(service, "GET", "/health/live", host="")[0] == 200
    assert exchange(service, "GET /health/live HTTP/1.0")[0] == 200
    assert code_of(exchange(service, "GET /health/live HTTP/1.0\nHost: a\nHost: b"))[2] == ["host"]


@pytest.mark.parametrize("host", ["a b/@", "a/b", "a@b", "a b", "x:y", "[::1", "::1", "a\\b", "\xe9", "a?b", "x:1:2"])
def test_a_host_that_is_none_is_refused(service: Service, host: str) -> None:
    assert code_of(ask(service, "GET", "/health/live", host=host)) == (400, "invalid_request", ["host"])


@pytest.mark.parametrize("host", ["x:", "bank.example:8000", "[::1]:80", "a_b-c~.d", "127.0.0.1", "%C3%A9", " x "])
def test_a_host_that_is_one_is_taken(service: Service, host: str) -> None:
    assert ask(service, "GET", "/health/live", host=host)[0] == 200


@pytest.mark.usefixtures("nothing_is_posted")
@pytest.mark.parametrize("coding", ["gzip, chunked", "deflate,chunked", "x, Chunked"])
def test_a_transfer_coding_that_is_not_understood_is_501(service: Service, bearer: str, coding: str) -> None:
    lines = ["POST /v1/accounts/1/credit HTTP/1.1", "Host: x", bearer, "Idempotency-Key: a", "Connection: close"]
    chunks = b'12\r\n{"amount_minor":1}\r\n0\r\n\r\n'
    head = "\n".join([*lines, "Content-Type: application/json", f"Transfer-Encoding: {coding}"])
    assert code_of(exchange(service, head, chunks))[:2] == (501, "unsupported_transfer_coding")
    split = "\n".join(f"Transfer-Encoding: {each.strip()}" for each in coding.split(","))
    assert exchange(service, "\n".join([*lines, split]), chunks)[0] in (400, 501)


@pytest.mark.parametrize("coding", ["chunked", "Chunked", " CHUNKED"])
def test_a_body_in_chunks_is_read(service: Service, client: httpx.Client, bearer: str, coding: str) -> None:
    account_id, key = open_account(client), new_key()["Idempotency-Key"]
    lines = [f"POST /v1/accounts/{account_id}/credit HTTP/1.1", "Host: x", bearer, f"Idempotency-Key: {key}"]
    lines += ["Content-Type: application/json", f"Transfer-Encoding: {coding}", "Connection: close"]
    assert exchange(service, "\n".join(lines), b'12\r\n{"amount_minor":1}\r\n0\r\n\r\n')[0] == 201


# ---- members -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_is_posted")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"amount_minor": 1, "amount_minor": 1}', "amount_minor"),
        ('{"amount_minor": 1, "amount_minor": 2}', "amount_minor"),
        ('{"amount_minor": 1, "\\u0061mount_minor": 2}', "amount_minor"),
        ('{"\\u0061mount_minor": 1, "amount_minor" :2}', "amount_minor"),
        ('{"amount_minor":1,"description":null,"description":null}', "description"),
        ('{"amount_minor":1,"description":":","description":""}', "description"),
        ('{"amount_minor":1,"description":"","description":"a:b:c"}', "description"),
        ('{"amount_minor":1,"description":"\\u003a","description":"x"}', "description"),
        ('{"amount_minor":1,"metadata":{},"metadata":{"a":1}}', "metadata"),
        ('{"amount_minor":1,"metadata":{"a":1},"metadata":{}}', "metadata"),
        ('{"amount_minor":1,"metadata":{"a":1,"a":1}}', "metadata"),
        ('{"amount_minor":1,"metadata":{"a":1,"\\u0061":1}}', "metadata"),
        ('{"amount_minor":1,"metadata":{"a":":","a":"::"}}', "metadata"),
        ('{"amount_minor":1,"metadata":{"b":[{"c":{"a:":1,"a:":1}}]}}', "metadata"),
        ('{"amount_minor":1,"metadata":{"b\\\\":"\\"", "b\\\\":":"}}', "metadata"),
        ('{"amount_minor":1,"metadata":{"":1,"":1}}', "metadata"),
        ('{"amount_minor":1,"metadata":{"a":1,"a":1},"amount_minor":1}', "amount_minor"),
    ],
)
def test_a_member_is_given_once(client: httpx.Client, body: str, field: str) -> None:
    headers = {**new_key(), "Content-Type": "application/json"}
    answer = client.post("/v1/accounts/1/credit", content=body, headers=headers)
    problem = problem_of(answer, 400, "invalid_request")
    assert fields_of(problem) == [field]
    assert "more than once" in problem["detail"]


@pytest.mark.usefixtures("nothing_is_posted")
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (
            "/v1/transactions",
            '{"legs":[{"account_id":2,"amount_minor":-1},{"account_id":3,"amount_minor":1,"account_id":4}]}',
            "legs[1].account_id",
        ),
        (
            "/v1/transactions",
            '{"legs":[{"account_id":2,"amount_minor":-1},{"account_id":3,"amount_minor":1}],'
            '"conditions":[{"account_id":2,"version":1,"version":2}]}',
            "conditions[0].version",
        ),
        (
            "/v1/transfers/batch",
            '{"transfers":[{"debit_account_id":2,"credit_account_id":3,"amount_minor":1,"amount_minor":2}]}',
            "transfers[0].amount_minor",
        ),
        (
            "/v1/transfers/batch",
            '{"transfers":[{"debit_account_id":2,"credit_account_id":3,"amount_minor":1,"metadata":{"a":1,"a":2}}]}',
            "transfers[0].metadata",
        ),
        ("/v1/transfers/batch", '{"transfers":[],"transfers":[]}', "transfers"),
        ("/v1/accounts", '{"holder_name":"A","currency":"EUR","holder_name":"B"}', "holder_name"),
        ("/v1/accounts/batch", '{"accounts":[{"holder_name":"A","currency":"EUR","currency":"E:"}]}', "accounts[0]"),
    ],
)
def test_a_member_of_an_item_is_given_once(client: httpx.Client, path: str, body: str, field: str) -> None:
    answer = client.post(path, content=body, headers={**new_key(), "Content-Type": "application/json"})
    problem = problem_of(answer, 400, "invalid_request")
    assert fields_of(problem)[0].startswith(field)


def test_colons_in_texts_are_no_members(client: httpx.Client) -> None:
    metadata: dict[str, Any] = {"a:b": "c::d", "at": "10:00:00", "e": {"f": [":", {"g": "\\:\"'"}]}, "\u00e9\u003a": 1}
    body = {"amount_minor": 1, "description": "a: b", "external_id": "order:17", "metadata": metadata}
    account_id = open_account(client)
    for content in (json.dumps(body), json.dumps(body, ensure_ascii=False), json.dumps(body).replace(":", " : ")):
        headers = {**new_key(), "Content-Type": "application/json"}
        answer = client.post(f"/v1/accounts/{account_id}/credit", content=content.encode(), headers=headers)
        assert answer.status_code == 201, answer.text
        body["external_id"] = None
    assert client.get(f"/v1/transactions/{answer.json()['transaction_id']}").json()["metadata"]


# ---- methods -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health/live", "/metrics", "/v1/accounts/{}", "/v1/accounts/{}/balance"])
def test_head_is_get_without_the_body(service: Service, client: httpx.Client, bearer: str, path: str) -> None:
    path = path.format(open_account(client))
    got, head = ask(service, "GET", path, bearer), ask(service, "HEAD", path, bearer)
    assert (got[0], head[0]) == (200, 200)
    assert head[2] == b""
    assert head[1].keys() == got[1].keys()
    assert head[1]["content-type"] == got[1]["content-type"]
    if path != "/metrics":  # which counts the requests before it
        assert head[1]["content-length"] == str(len(got[2]))


def test_head_is_refused_as_get_is(service: Service, client: httpx.Client, bearer: str) -> None:
    limits = service.http.settings
    for target, headers, status in (
        ("/v1/accounts/1", (), 401),
        ("/v1/accounts/999999", (bearer,), 404),
        ("/v1/nothing", (bearer,), 404),
        ("/v1/transfers", (bearer,), 405),
        ("/v1/accounts/1?x=1", (bearer,), 400),
        ("/" + "x" * limits.url_bytes_max, (), 414),
    ):
        answer = ask(service, "HEAD", target, *headers)
        assert (answer[0], answer[2]) == (status, b"")
        assert int(answer[1]["content-length"]) > 0
    key = service.create_key("accounts:read")
    assert ask(service, "HEAD", "/v1/transactions?idempotency_key=x", f"Authorization: Bearer {key}")[0] == 404


def test_options_says_what_there_is(service: Service) -> None:
    for target, allow in (
        ("/v1/transfers", "OPTIONS, POST"),
        ("/v1/transactions", "GET, HEAD, OPTIONS, POST"),
        ("/metrics", "GET, HEAD, OPTIONS"),
        ("*", "GET, HEAD, OPTIONS, POST, PUT"),
    ):
        status, headers, content = ask(service, "OPTIONS", target)
        assert (status, headers["allow"], content) == (204, allow.lower(), b"")
        assert "content-length" not in headers
    assert ask(service, "GET", "*")[0] in (400, 404)


def test_connect_is_not_allowed_and_says_so(service: Service) -> None:
    status, headers, _ = ask(service, "CONNECT", "x:443")
    assert (status, headers["allow"]) == (405, "")


# ---- what a read says --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sqlstate", ["57P01", "08006"])
def test_a_read_does_not_speak_of_idempotency_keys(bank: Bank, owner: Connection, sqlstate: str) -> None:
    """To a request that only reads, an outcome that is not known is none."""
    let_fail(owner, "account", sqlstate)
    with serving(bank) as client:
        answer = client.get("/v1/accounts/2")
        assert "Idempotency-Key" not in problem_of(answer, 503, "database_unavailable")["detail"]
        assert client.head("/v1/accounts/2").status_code == 503


def let_fail(owner: Connection, function: str, sqlstate: str = "57P01") -> None:
    """Let a function raise what leaves it open whether anything was done."""
    [row] = owner.execute(
        """
        select pg_get_function_arguments(oid) as arguments, pg_get_function_result(oid) as result
        from pg_proc where oid = ('bank.' || %s)::regproc
        """,
        [function],
    ).fetchall()
    body = f"begin raise exception using errcode = '{sqlstate}'; end"
    owner.execute(
        f"create or replace function bank.{function}({row['arguments']}) returns {row['result']} language plpgsql "
        f"as $$ {body} $$".encode()
    )


@contextmanager
def serving(bank: Bank) -> Iterator[httpx.Client]:
    key, _ = create_key(bank)
    http = HttpServer(bank.app_url, workers=1)
    try:
        http.start()
        with http.client(key) as client:
            yield client
    finally:
        http.stop()


SIDES = {"debit_account_id": 2, "credit_account_id": 3, "amount_minor": 1}


def test_what_leaves_nothing_behind_is_never_of_unknown_outcome(bank: Bank, owner: Connection) -> None:
    for function in ("transfer", "post_transfers", "sweep", "explain_transfer"):
        let_fail(owner, function)
    bodies = {"transfers": SIDES, "transfers/batch": {"transfers": [SIDES]}, "sweeps": dict(list(SIDES.items())[:2])}
    with serving(bank) as client:
        for path, body in bodies.items():
            answers = [
                client.post(f"/v1/{path}{query}", json=body, headers=new_key()) for query in ("?dry_run=true", "")
            ]
            assert "Idempotency-Key" not in problem_of(answers[0], 503, "database_unavailable")["detail"]
            assert "Idempotency-Key" in problem_of(answers[1], 503, "outcome_unknown")["detail"]
        explained = client.post("/v1/transfers/explain", json=SIDES)
        assert "Idempotency-Key" not in problem_of(explained, 503, "database_unavailable")["detail"]


def test_a_change_without_a_key_does_not_speak_of_one(bank: Bank, owner: Connection) -> None:
    for function in ("freeze_account", "set_limit", "stripe_account"):
        let_fail(owner, function)
    with serving(bank) as client:
        for method, path, body in (
            ("POST", "freeze", {}),
            ("PUT", "limits/day", {"amount_max_minor": 1}),
            ("PUT", "stripes", {"stripes": 2}),
        ):
            answer = client.request(method, f"/v1/accounts/2/{path}", json=body)
            detail = problem_of(answer, 503, "outcome_unknown")["detail"]
            assert "Idempotency-Key" not in detail
            assert "send the request again: it does no harm twice" in detail
