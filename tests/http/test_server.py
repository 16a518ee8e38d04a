"""What the HTTP server itself does: slow clients, pipelining, kept connections, an orderly end."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any, BinaryIO

import httpx
import pytest

from service.http_service import port_is_open
from tests.conftest import Bank
from tests.http.conftest import Service, balance_of, new_key, open_account, transfer
from tests.http_server import HttpServer, create_key, violations, wait_for

SLOW_CLIENTS = 20
PIPELINED = 50


def request_bytes(method: str, path: str, key: str, body: dict[str, Any] | None = None) -> bytes:
    """Return a request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bank", f"Authorization: Bearer {key}"]
    content = b"" if body is None else json.dumps(body).encode()
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in new_key().items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def read_answer(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    """Read one answer off the wire; return its status and its JSON."""
    status = int(file.readline().split()[1])
    length = 0
    while (line := file.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, json.loads(file.read(length))


def test_clients_that_send_byte_by_byte_hold_up_nobody(service: Service, client: httpx.Client, admin_key: str) -> None:
    account_id = open_account(client)
    request = request_bytes("POST", f"/v1/accounts/{account_id}/credit", admin_key, {"amount_minor": 1})
    connections = [service.http.connect() for _ in range(SLOW_CLIENTS)]
    try:
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for position in range(len(request) - 1):
            for connection in connections:
                connection.sendall(request[position : position + 1])
            if position % 10 == 0:
                assert balance_of(client, account_id) == 0
        for number, connection in enumerate(connections, 1):
            connection.sendall(request[-1:])
            with connection.makefile("rb") as file:
                status, posting = read_answer(file)
            # They all send the same key: the first one posts, the others are replays.
            assert (status, posting["credit_balance_after_minor"]) == (201 if number == 1 else 200, 1)
    finally:
        for connection in connections:
            connection.close()


def test_a_client_that_hangs_up_in_the_middle_of_a_body_posts_nothing(
    service: Service, client: httpx.Client, admin_key: str
) -> None:
    account_id = open_account(client)
    request = request_bytes("POST", f"/v1/accounts/{account_id}/credit", admin_key, {"amount_minor": 1})
    for cut in (1, 5, len(request) - request.index(b"\r\n\r\n") - 5):
        with service.http.connect() as connection:
            connection.sendall(request[:-cut])
            connection.shutdown(socket.SHUT_WR)
            assert not connection.recv(1000).startswith(b"HTTP/1.1 2")
    assert balance_of(client, account_id) == 0


def test_pipelined_requests_are_all_answered_in_order(service: Service, client: httpx.Client, admin_key: str) -> None:
    account_ids = [open_account(client) for _ in range(5)]
    asked = [account_ids[number % 5] for number in range(PIPELINED)]
    with service.http.connect() as connection, connection.makefile("rb") as file:
        requests = [request_bytes("GET", f"/v1/accounts/{account_id}/balance", admin_key) for account_id in asked]
        connection.sendall(b"".join(requests))
        answers = [read_answer(file) for _ in asked]
    assert [status for status, _ in answers] == [200] * PIPELINED
    assert [balance["account_id"] for _, balance in answers] == asked


def test_pipelined_postings_are_posted_in_order(service: Service, client: httpx.Client, admin_key: str) -> None:
    account_id = open_account(client)
    path = f"/v1/accounts/{account_id}/credit"
    with service.http.connect() as connection, connection.makefile("rb") as file:
        requests = [request_bytes("POST", path, admin_key, {"amount_minor": n}) for n in range(PIPELINED)]
        connection.sendall(b"".join(requests))
        answers = [read_answer(file) for _ in requests]
    assert [status for status, _ in answers] == [400] + [201] * (PIPELINED - 1)
    assert [posting["amount_minor"] for _, posting in answers[1:]] == list(range(1, PIPELINED))
    assert [posting["credit_version"] for _, posting in answers[1:]] == list(range(1, PIPELINED))


def test_a_connection_is_kept_for_the_next_request_also_after_a_problem(
    service: Service, client: httpx.Client, admin_key: str
) -> None:
    account_id = open_account(client)
    connection = HTTPConnection(*service.http.address, timeout=30)
    connection.connect()
    connection.auto_open = 0  # a closed connection is an error, not opened again
    headers = {"Authorization": f"Bearer {admin_key}", "Content-Type": "application/json", **new_key()}
    try:
        for method, path, body, status in [
            ("GET", f"/v1/accounts/{account_id}", None, 200),
            ("GET", "/v1/nothing", None, 404),
            ("GET", "/v1/accounts/0", None, 400),
            ("POST", "/v1/transfers", "{", 400),
            ("POST", "/v1/transfers", "x" * (service.http.settings.body_bytes_max + 1), 413),
            ("GET", f"/v1/accounts/{account_id}", None, 200),
        ]:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
    finally:
        connection.close()


def test_a_client_that_asks_for_it_has_its_connection_closed(service: Service) -> None:
    with service.http.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: bank\r\nConnection: close\r\n\r\n")
        assert read_answer(file)[0] == 200
        assert file.read() == b""


@pytest.mark.parametrize(("requests", "flushes_max"), [(1, 2), (6, 0)])
def test_an_orderly_end_finishes_the_requests_in_flight(bank: Bank, requests: int, flushes_max: int) -> None:
    key, _ = create_key(bank)
    http = HttpServer(bank.app_url, coalescer_flushes_max=flushes_max, lock_timeout_ms=0, pool_connections_max=10)
    try:
        http.start()
        with (
            bank.connect("bank_owner", autocommit=False) as locker,
            bank.connect("bank_owner") as database,
            http.client(key) as client,
            ThreadPoolExecutor(requests) as threads,
        ):
            debited, credited = open_account(client, balance_minor=100), open_account(client)
            locker.execute("select from bank.account where account_id = %s for update", [debited])
            try:
                answers = [threads.submit(transfer, client, debited, credited, 7) for _ in range(requests)]
                waiting = """
                    select count(*) = %s as all_of_them from pg_stat_activity
                    where datname = current_database() and application_name = 'pgteller'
                        and pg_blocking_pids(pid) <> '{}'
                """
                wait_for(lambda: _true(database.execute(waiting, [requests]).fetchone()), "the transfers wait")
                http.terminate()
                wait_for(lambda: not port_is_open(http.address), "new connections are refused")
                assert not any(answer.done() for answer in answers)
            finally:
                locker.rollback()
            assert [answer.result().status_code for answer in answers] == [201] * requests
            assert http.process.wait(30) == 0
            row = database.execute(
                "select balance_minor from bank.account where account_id = %s", [credited]
            ).fetchone()
            assert row == {"balance_minor": 7 * requests}
            assert violations(database) == []
    finally:
        http.stop()


def _true(row: dict[str, Any] | None) -> bool:
    return row is not None and bool(row["all_of_them"])
