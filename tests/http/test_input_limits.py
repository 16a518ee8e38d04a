"""What a client may send before anyone knows who it is, how long it may take, and how many may come."""

import contextlib
import itertools
import json
import resource
import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import Bank
from tests.http.conftest import Service, balance_of, new_key, open_account
from tests.http.test_server import read_answer, request_bytes
from tests.http_server import HttpServer, create_key, wait_for

LIVE = b"GET /health/live HTTP/1.1\r\nHost: bank\r\n\r\n"
ENDLESS_BYTES = 4_000_000
CONNECTIONS_MAX = 8
HALF_OPEN = 50


def problem_from(connection: socket.socket) -> dict[str, Any]:
    """Read one answer, which is a problem after which the connection ends."""
    response = HTTPResponse(connection)
    response.begin()
    problem: dict[str, Any] = json.loads(response.read())
    assert response.getheader("Content-Type") == "application/problem+json"
    assert response.getheader("Connection") == "close"
    assert response.getheader("X-Request-ID") == problem["request_id"]
    assert (response.status, problem["type"]) == (problem["status"], f"urn:pgteller:error:{problem['code']}")
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    return problem


def send(connection: socket.socket, pieces: Iterator[bytes]) -> None:
    """Send until the service takes no more."""
    with contextlib.suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)


def endless(piece: bytes) -> Iterator[bytes]:
    """More than any bound allows, but not so much that a failing test fills the memory."""
    return itertools.repeat(piece, ENDLESS_BYTES // len(piece))


@pytest.fixture(scope="module")
def quick(shared_bank: Bank) -> Iterator[HttpServer]:
    """A service with short times and room for few connections."""
    http = HttpServer(
        shared_bank.app_url,
        workers=1,
        hold_sweep_seconds=0,
        url_bytes_max=1000,
        header_bytes_max=8000,
        header_count_max=50,
        body_bytes_max=100_000,
        first_byte_timeout_seconds=2,
        headers_timeout_seconds=1,
        body_timeout_seconds=2,
        connections_max=CONNECTIONS_MAX,
    )
    try:
        http.start()
        yield http
        assert "Traceback" not in http.log(), http.log()
    finally:
        http.stop()


@pytest.fixture(scope="module")
def key(shared_bank: Bank) -> str:
    return create_key(shared_bank)[0]


def refused(http: HttpServer, reason: str) -> int:
    """Return how many were refused for this reason, as Prometheus reads it."""
    sample = f'pgteller_http_refused_total{{reason="{reason}"}} '
    figures = httpx.get(f"{http.url}/metrics").text.splitlines()
    return sum(int(float(line.removeprefix(sample))) for line in figures if line.startswith(sample))


@pytest.mark.parametrize(
    ("begin", "piece", "code", "reason"),
    [
        (b"GET /", b"a" * 100, "url_too_long", "url_bytes"),
        (b"GET / HTTP/1.1\r\nHost: bank\r\nX: ", b"a" * 100, "headers_too_large", "header_bytes"),
        (b"GET / HTTP/1.1\r\nHost: bank\r\n", b"a" * 100, "headers_too_large", "header_bytes"),
        (b"GET / HTTP/1.1\r\nHost: bank\r\n", b"a: b\r\n", "headers_too_large", "header_count"),
        (b"GET / HTTP/1.1\r\nHost: bank\r\n", b"a: b\r\n" * 10_000, "headers_too_large", "header_count"),
    ],
)
def test_an_endless_head_is_refused(quick: HttpServer, begin: bytes, piece: bytes, code: str, reason: str) -> None:
    before = refused(quick, reason)
    with quick.connect() as connection:
        connection.sendall(begin)
        send(connection, endless(piece))
        problem = problem_from(connection)
    assert problem["code"] == code
    assert problem["status"] == (414 if code == "url_too_long" else 431)
    assert refused(quick, reason) == before + 1
    assert httpx.get(f"{quick.url}/health/live").status_code == 200


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\nHost: bank\r\n\r\n", "url_too_long"),
        (b"GET / HTTP/1.1\r\nHost: bank\r\n" + b"a: b\r\n" * 50 + b"\r\n", "headers_too_large"),
    ],
)
def test_a_head_beyond_a_bound_is_refused_though_it_comes_at_once(quick: HttpServer, head: bytes, code: str) -> None:
    with quick.connect() as connection:
        connection.sendall(head)
        assert problem_from(connection)["code"] == code


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("count", [1, 40])
def test_the_bound_of_the_headers_is_exact(quick: HttpServer, count: int, pieces: int) -> None:
    """Names and values, and four bytes for each: 8000 of them are taken, and one more is not."""

    def answered(size_bytes: int, before: bytes = b"") -> int:
        lines = [b"Host: bank\r\n", *(b"x-%02d: \r\n" % number for number in range(count))]
        left = size_bytes - sum(map(len, lines))
        lines[-1] = lines[-1].replace(b"\r\n", b"a" * left + b"\r\n")
        data = before + b"GET /health/live HTTP/1.1\r\n" + b"".join(lines) + b"\r\n"
        with quick.connect() as connection, connection.makefile("rb") as file:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number in range(pieces):
                connection.sendall(data[len(data) * number // pieces : len(data) * (number + 1) // pieces])
            if before:
                read_answer(file)
            return read_answer(file)[0]

    # Before it on the connection: a body whose end comes in one piece with the beginning of the head.
    body = b"GET /health/live HTTP/1.1\r\nHost: bank\r\nContent-Length: 4000\r\n\r\n" + b"b" * 4000
    for before in (b"", body):
        assert (answered(8000, before), answered(8001, before)) == (200, 431)


def test_a_head_within_the_bounds_is_served(quick: HttpServer) -> None:
    path = b"/" + b"b" * 900
    headers = b"".join(b"x-%d: " % number + b"c" * 100 + b"\r\n" for number in range(49))
    with quick.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: bank\r\n" + headers + b"\r\n")
        status, problem = read_answer(file)
        assert (status, problem["code"]) == (404, "not_found")  # the application has had it


@pytest.mark.parametrize(
    ("piece", "reason"),
    [(b"1;" + b"a" * 100, "body_framing"), (b"0\r\na: " + b"b" * 100, "body_framing")],
    ids=["extension", "trailer"],
)
def test_endless_framing_of_a_body_is_refused(quick: HttpServer, key: str, piece: bytes, reason: str) -> None:
    before = refused(quick, reason)
    with quick.connect() as connection:
        connection.sendall(head_of_post("/v1/transfers", key, b"Transfer-Encoding: chunked") + piece)
        send(connection, endless(b"a" * 100))
        assert problem_from(connection)["code"] == "payload_too_large"
    assert refused(quick, reason) == before + 1


def head_of_post(path: str, key: str, *headers: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: bank", f"Authorization: Bearer {key}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in new_key().items()]
    return b"\r\n".join([*(line.encode() for line in lines), *headers, b"", b""])


def test_trailers_are_no_headers(quick: HttpServer, key: str) -> None:
    with quick.connect() as connection, connection.makefile("rb") as file:
        request = head_of_post("/v1/transfers", "wrong", b"Transfer-Encoding: chunked")
        connection.sendall(request + b"2\r\n{}\r\n0\r\nAuthorization: Bearer " + key.encode() + b"\r\n\r\n")
        assert read_answer(file)[0] == 401


def test_a_body_beyond_the_bound_is_refused_before_it_is_sent(quick: HttpServer, key: str) -> None:
    with quick.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(head_of_post("/v1/transfers", key, b"Content-Length: 100001"))
        status, problem = read_answer(file)
    assert (status, problem["code"], problem["limit_bytes"]) == (413, "payload_too_large", 100_000)


def test_who_has_no_key_is_told_so_before_the_body_is_sent(quick: HttpServer) -> None:
    with quick.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(head_of_post("/v1/transfers", "wrong", b"Content-Length: 100"))
        assert read_answer(file)[0] == 401


@pytest.mark.parametrize("length", [b"Transfer-Encoding: chunked", b"Content-Length: 10000000000"])
def test_an_endless_body_is_refused_and_the_connection_ends(quick: HttpServer, key: str, length: bytes) -> None:
    before = refused(quick, "body_bytes")
    piece = b"3e8\r\n" + b" " * 1000 + b"\r\n" if b"chunked" in length else b" " * 1000
    with quick.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(head_of_post("/v1/transfers", key, length))
        send(connection, endless(piece))
        with contextlib.suppress(ConnectionResetError):
            assert read_answer(file)[0] == 413
    wait_for(lambda: refused(quick, "body_bytes") == before + 1, "the connection was ended")


def test_a_client_that_never_speaks_is_told_so(quick: HttpServer) -> None:
    with quick.connect() as connection:
        problem = problem_from(connection)
    assert (problem["status"], problem["code"], problem["limit_seconds"]) == (408, "request_too_slow", 2)


def trickle(connection: socket.socket, data: bytes, seconds_max: float) -> None:
    """Send byte by byte until the service has answered."""
    connection.settimeout(0.1)
    deadline = time.monotonic() + seconds_max
    for position in itertools.count():
        assert time.monotonic() < deadline, "there was no answer"
        with contextlib.suppress(OSError):
            connection.sendall(data[position % len(data) :][:1])
        with contextlib.suppress(TimeoutError):
            connection.recv(1, socket.MSG_PEEK)
            connection.settimeout(30)
            return


def test_headers_that_trickle_are_given_up_also_on_a_kept_connection(quick: HttpServer) -> None:
    before = refused(quick, "headers_time")
    for first in (b"", LIVE):
        with quick.connect() as connection, connection.makefile("rb") as file:
            if first:
                connection.sendall(first)
                assert read_answer(file)[0] == 200
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            trickle(connection, b"a", 20)
            problem = problem_from(connection)
        assert (problem["status"], problem["code"], problem["limit_seconds"]) == (408, "request_too_slow", 1)
    assert refused(quick, "headers_time") == before + 2


@pytest.mark.parametrize("length", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_a_body_that_does_not_come_posts_nothing(quick: HttpServer, key: str, length: bytes) -> None:
    """What has come of the second is a whole posting, but for the end of the body."""
    with quick.client(key) as client:
        account_id = open_account(client)
        with quick.connect() as connection:
            connection.sendall(head_of_post(f"/v1/accounts/{account_id}/credit", key, length))
            connection.sendall(b'13\r\n{"amount_minor": 1}\r\n' if b"chunked" in length else b'{"amount_minor": 1}')
            problem = problem_from(connection)
        assert (problem["status"], problem["code"], problem["limit_seconds"]) == (408, "request_too_slow", 2)
        assert balance_of(client, account_id) == 0


def test_a_client_that_hangs_up_before_the_end_of_a_chunked_body_posts_nothing(quick: HttpServer, key: str) -> None:
    with quick.client(key) as client:
        account_id = open_account(client)
        with quick.connect() as connection:
            connection.sendall(head_of_post(f"/v1/accounts/{account_id}/credit", key, b"Transfer-Encoding: chunked"))
            connection.sendall(b'13\r\n{"amount_minor": 1}\r\n')
        requests = 'pgteller_http_requests_total{method="POST",route="/v1/accounts/{account_id}/credit",status="400"}'
        wait_for(lambda: requests in client.get("/metrics").text, "the request has ended")
        assert balance_of(client, account_id) == 0


def test_a_body_that_takes_its_time_is_read(quick: HttpServer, key: str) -> None:
    with quick.client(key) as client:
        account_id = open_account(client)
        with quick.connect() as connection, connection.makefile("rb") as file:
            content = b'{"amount_minor": 1}'
            length = b"Content-Length: %d" % len(content)
            connection.sendall(head_of_post(f"/v1/accounts/{account_id}/credit", key, length))
            for byte in content:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
            assert read_answer(file)[0] == 201


def test_a_client_that_waits_for_100_continue_gets_it(quick: HttpServer, key: str) -> None:
    with quick.client(key) as client:
        account_id = open_account(client)
        with quick.connect() as connection, connection.makefile("rb") as file:
            expect = (b"Content-Length: 19", b"Expect: 100-continue")
            connection.sendall(head_of_post(f"/v1/accounts/{account_id}/credit", key, *expect))
            assert file.readline() == b"HTTP/1.1 100 Continue\r\n"
            assert file.readline() == b"\r\n"
            connection.sendall(b'{"amount_minor": 1}' + LIVE)
            assert [read_answer(file)[0] for _ in range(2)] == [201, 200]


def test_a_kept_connection_may_be_idle_for_longer_than_a_request_may_take(quick: HttpServer) -> None:
    with quick.connect() as connection, connection.makefile("rb") as file:
        for _ in range(2):
            connection.sendall(LIVE)
            assert read_answer(file)[0] == 200
            time.sleep(5)  # every other time is over; the 75 seconds of an idle connection are not
        connection.sendall(LIVE)
        assert read_answer(file)[0] == 200


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB",
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
    ],
)
@pytest.mark.parametrize("cut", [1, 5, 40, None])
def test_an_upgrade_is_ignored_and_the_body_is_read(
    service: Service, client: httpx.Client, admin_key: str, upgrade: bytes, cut: int | None
) -> None:
    account_id = open_account(client)
    path = f"/v1/accounts/{account_id}/credit"
    request = head_of_post(path, admin_key, upgrade, b"Content-Length: 19") + b'{"amount_minor": 1}'
    with service.http.connect() as connection, connection.makefile("rb") as file:
        if cut is not None:
            connection.sendall(request[:-cut])
            assert balance_of(client, account_id) == 0
            request = request[-cut:]
        connection.sendall(request + LIVE)
        status, posting = read_answer(file)
        assert (status, posting["amount_minor"]) == (201, 1)
        assert read_answer(file)[0] == 200
    assert "Unsupported upgrade" not in service.http.log()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: bank\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\nHost: bank\r\n\r\n", 505),
        (b"CONNECT bank:80 HTTP/1.1\r\nHost: bank\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : bank\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_of_http_1_1_is_answered_with_a_problem(
    quick: HttpServer, request_bytes: bytes, status: int
) -> None:
    with quick.connect() as connection:
        connection.sendall(request_bytes)
        assert problem_from(connection)["status"] == status


def test_a_refusal_waits_for_the_answers_to_what_came_before(quick: HttpServer, key: str) -> None:
    with quick.client(key) as client:
        account_id = open_account(client)
    credit = request_bytes("POST", f"/v1/accounts/{account_id}/credit", key, {"amount_minor": 1})
    for fault in (b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"):
        with quick.connect() as connection, connection.makefile("rb") as file:
            connection.sendall(credit + credit + fault)
            assert [read_answer(file)[0] for _ in range(3)][1:] == [200, 400]
            assert file.read() == b""


def test_a_long_pipeline_is_answered_in_full(quick: HttpServer) -> None:
    requests = 20_000
    with quick.connect() as connection, connection.makefile("rb") as file:
        connection.settimeout(60)
        sent = 0
        while sent < requests:
            connection.sendall(LIVE * 500)
            sent += 500
            assert [read_answer(file)[0] for _ in range(500)] == [200] * 500


def test_the_oldest_half_open_connection_gives_way(quick: HttpServer) -> None:
    before = refused(quick, "displaced")
    with contextlib.ExitStack() as stack:
        half_open = []
        for number in range(HALF_OPEN):
            connection = stack.enter_context(quick.connect())
            if number % 2:
                connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            half_open.append(connection)
        assert httpx.get(f"{quick.url}/health/live").status_code == 200
        problem = problem_from(half_open[0])
    assert (problem["status"], problem["code"]) == (408, "request_too_slow")
    assert refused(quick, "displaced") >= before + HALF_OPEN - CONNECTIONS_MAX
    wait_for(lambda: '"displaced"' in quick.log(), "the log says so")
    lines = [line for line in quick.log().splitlines() if "displaced" in line]
    assert len(lines) < HALF_OPEN - CONNECTIONS_MAX


def test_the_connection_that_has_been_idle_longest_gives_way(quick: HttpServer) -> None:
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(quick.connect()) for _ in range(CONNECTIONS_MAX)]
        for connection in (*kept[1:], kept[0]):
            connection.sendall(LIVE)
            with connection.makefile("rb") as file:
                assert read_answer(file)[0] == 200
        assert httpx.get(f"{quick.url}/health/live").status_code == 200
        assert kept[1].recv(1) == b""
        kept[0].sendall(LIVE)
        with kept[0].makefile("rb") as file:
            assert read_answer(file)[0] == 200


def test_no_request_in_flight_gives_way(bank: Bank) -> None:
    """The transfers wait for a lock; who comes beyond the limit is refused, and told so."""
    api_key, _ = create_key(bank)
    settings = {"coalescer_flushes_max": 0, "lock_timeout_ms": 0, "pool_connections_max": CONNECTIONS_MAX + 4}
    http = HttpServer(bank.app_url, workers=1, connections_max=CONNECTIONS_MAX, **settings)
    try:
        http.start()
        with contextlib.ExitStack() as stack:
            with http.client(api_key) as client:
                account_id = open_account(client)
            locker = stack.enter_context(bank.connect("bank_owner", autocommit=False))
            database = stack.enter_context(bank.connect("bank_owner"))
            locker.execute("select from bank.account where account_id = %s for update", [account_id])
            busy = [stack.enter_context(http.connect()) for _ in range(CONNECTIONS_MAX)]
            for connection in busy:
                path = f"/v1/accounts/{account_id}/credit"
                connection.sendall(request_bytes("POST", path, api_key, {"amount_minor": 1}))
            wait_for(lambda: waiting(database) == CONNECTIONS_MAX, "the credits wait")
            for _ in range(3):
                with http.connect() as connection:
                    problem = problem_from(connection)
                assert (problem["status"], problem["code"]) == (503, "too_many_connections")
            locker.rollback()
            for connection in busy:
                with connection.makefile("rb") as file:
                    assert read_answer(file)[0] == 201
            assert refused(http, "connections") == 3
    finally:
        http.stop()


def waiting(database: Any) -> int:
    query = """
        select count(*) as waiting from pg_stat_activity
        where datname = current_database() and application_name = 'pgteller' and pg_blocking_pids(pid) <> '{}'
    """
    return int(database.execute(query).fetchone()["waiting"])


def test_a_client_that_does_not_read_its_answers_is_cut_off(quick: HttpServer) -> None:
    before = refused(quick, "answer_time")
    with quick.connect() as connection:
        connection.settimeout(1)
        send(connection, endless(LIVE * 100))
        wait_for(lambda: refused(quick, "answer_time") == before + 1, "the connection was ended")


def test_a_client_that_does_not_read_its_answers_gives_way_to_another(shared_bank: Bank) -> None:
    http = HttpServer(shared_bank.app_url, workers=1, connections_max=CONNECTIONS_MAX, hold_sweep_seconds=0)
    try:
        http.start()
        with contextlib.ExitStack() as stack:
            for _ in range(CONNECTIONS_MAX):
                connection = stack.enter_context(http.connect())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.settimeout(0.5)
                send(connection, endless(b"GET /metrics HTTP/1.1\r\nHost: bank\r\n\r\n" * 20))

            def lives() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return httpx.get(f"{http.url}/health/live").status_code == 200
                return False

            wait_for(lives, "one of them gives way", 15)
            assert refused(http, "displaced") >= 1
            assert refused(http, "answer_time") == 0
    finally:
        http.stop()


@pytest.mark.parametrize("requests", [1, 2, 40])
@pytest.mark.parametrize("rest", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: bank\r\nContent-Length: 5\r\n\r\n{"])
def test_a_client_that_sends_no_more_gets_the_answers_to_its_whole_requests(
    quick: HttpServer, key: str, requests: int, rest: bytes
) -> None:
    with quick.client(key) as client:
        account_id = open_account(client)
    path = f"/v1/accounts/{account_id}/credit"
    whole = [request_bytes("POST", path, key, {"amount_minor": 1}) for _ in range(requests)]
    with quick.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(b"".join(whole) + rest)
        connection.shutdown(socket.SHUT_WR)
        assert [read_answer(file)[0] for _ in range(requests)] == [201] * requests
        assert file.read() == b""
    with quick.client(key) as client:
        assert balance_of(client, account_id) == requests


def test_a_client_that_sends_no_more_and_no_whole_request_gets_nothing(quick: HttpServer) -> None:
    for sent in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: bank\r\nContent-Length: 5\r\n\r\n{"):
        with quick.connect() as connection, connection.makefile("rb") as file:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert not file.read().startswith(b"HTTP/1.1 2")


def test_few_files_leave_most_of_them_to_clients(shared_bank: Bank) -> None:
    """With `ulimit -n 256`. What else a worker has open finds room in what is kept for it."""
    files = 256
    http = HttpServer(shared_bank.app_url, workers=1, hold_sweep_seconds=0)
    try:
        http.start(ready=False)
        resource.prlimit(http.process.pid, resource.RLIMIT_NOFILE, (files, files))
        http.await_ready()
        [pid] = http.worker_pids()
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (files, files)
        wait_for(lambda: "limit of open files" in http.log(), "the log says so")
        connections_max = files - 104 - http.settings.pool_connections_max
        assert f'"limit": {connections_max}' in http.log()
        with contextlib.ExitStack() as stack:
            for _ in range(connections_max + 10):
                stack.enter_context(http.connect())
            assert httpx.get(f"{http.url}/health/live").status_code == 200
            assert httpx.get(f"{http.url}/metrics").status_code == 200
            clients = [each for each in psutil.Process(pid).net_connections("tcp") if each.status == "ESTABLISHED"]
            assert psutil.Process(pid).num_fds() - len(clients) <= 40
    finally:
        http.stop()


def test_an_orderly_end_does_not_wait_for_half_open_connections(shared_bank: Bank) -> None:
    http = HttpServer(shared_bank.app_url, hold_sweep_seconds=0)
    try:
        http.start()
        with http.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            http.terminate()
            assert http.process.wait(30) == 0
    finally:
        http.stop()
