"""A service that all HTTP tests share, and what they ask of it. Each test opens accounts of its own."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from service.embedded import EmbeddedPostgres
from service.owner import call, connect
from tests.conftest import APP_PASSWORD, Bank, Connection
from tests.http_server import HttpServer, create_key, violations
from tests.pgbouncer import POOL_MODE, PgBouncer


@dataclass(frozen=True)
class Service:
    """A running service and the bank behind it."""

    bank: Bank
    http: HttpServer

    def create_key(self, *scopes: str, ledger_id: int = 1) -> str:
        return create_key(self.bank, *scopes, ledger_id=ledger_id)[0]


@pytest.fixture(scope="session", autouse=True)
def pooler(server: EmbeddedPostgres) -> Iterator[None]:
    """Let every service of these tests go through a PgBouncer, where PGTELLER_TEST_POOLER names its mode."""
    if POOL_MODE is None:
        yield
        return
    pooler = PgBouncer(server, {"bank_app": APP_PASSWORD}, POOL_MODE, default_pool_size=20)
    try:
        pooler.start()
        HttpServer.pooler = pooler.of
        yield
    finally:
        HttpServer.pooler = None
        pooler.close()


@pytest.fixture(scope="session")
def shared_bank(server: EmbeddedPostgres, template: str) -> Iterator[Bank]:
    """A bank that the HTTP tests share, and that none of them breaks."""
    bank = Bank(server, "bank_http")
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        clone = sql.SQL("create database {} template {} strategy file_copy")
        connection.execute(clone.format(sql.Identifier(bank.dbname), sql.Identifier(template)))
    yield bank
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(bank.dbname)))


@pytest.fixture(scope="session")
def service(shared_bank: Bank) -> Iterator[Service]:
    """The service on the shared bank; no 500 and nothing unexpected in its log by the end."""
    http = HttpServer(shared_bank.app_url, hold_sweep_seconds=0)  # it would disturb those that count
    try:
        http.start()
        yield Service(shared_bank, http)
        assert "Traceback" not in http.log(), http.log()
    finally:
        http.stop()


@pytest.fixture(scope="session")
def admin_key(service: Service) -> str:
    return service.create_key()


@pytest.fixture(scope="session")
def client(service: Service, admin_key: str) -> Iterator[httpx.Client]:
    """A client that may do everything in ledger 1."""
    with service.http.client(admin_key) as client:
        yield client


@pytest.fixture(scope="session")
def other_client(service: Service) -> Iterator[httpx.Client]:
    """A client that may do everything in a ledger of its own."""
    with connect(service.bank.owner_url) as owner:
        [ledger] = call(owner, "create_ledger", name="Other")
    with service.http.client(service.create_key(ledger_id=ledger["ledger_id"])) as client:
        yield client


@pytest.fixture(scope="session")
def database(service: Service) -> Iterator[Connection]:
    """A connection to the shared bank with the rights of its owner."""
    with service.bank.connect("bank_owner") as connection:
        yield connection


@pytest.fixture
def nothing_is_posted(database: Connection) -> Iterator[None]:
    """The test leaves the ledger exactly as it was, failed attempts included."""

    def state() -> object:
        query = """
            select (select count(*) from bank.transaction) as transactions,
                (select count(*) from bank.entry) as entries,
                (select sum(version) from bank.account) as versions
        """
        return database.execute(query).fetchone()

    before = state()
    yield
    assert state() == before
    assert violations(database) == []


def new_key() -> dict[str, str]:
    """Return the header of a request that is no retry."""
    return {"Idempotency-Key": uuid.uuid4().hex}


def open_account(client: httpx.Client, currency: str = "EUR", balance_minor: int = 0, **members: Any) -> int:
    """Open an account, with this much money on it, and return its id."""
    body = {"holder_name": "Ada Lovelace", "currency": currency, **members}
    answer = client.post("/v1/accounts", json=body, headers=new_key())
    assert answer.status_code == 201, answer.text
    account_id: int = answer.json()["account_id"]
    if balance_minor:
        credited = client.post(
            f"/v1/accounts/{account_id}/credit", json={"amount_minor": balance_minor}, headers=new_key()
        )
        assert credited.status_code == 201, credited.text
    return account_id


def post(client: httpx.Client, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    """Ask for a posting; headers: more than, or others than, a new Idempotency-Key."""
    return client.post(path, json=body, headers={**new_key(), **headers})


def posted(answer: httpx.Response) -> dict[str, Any]:
    """Return what was posted now, which is found where the answer says."""
    assert answer.status_code == 201, answer.text
    posting: dict[str, Any] = answer.json()
    assert posting["transaction_status"] == "success"
    assert answer.headers["Location"].endswith(f"/{posting['transaction_id']}")
    return posting


def assert_replays(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post twice with one key: the second answer is the first one's outcome. Return it."""
    key = new_key()
    first, retry = client.post(path, json=body, headers=key), client.post(path, json=body, headers=key)
    assert retry.status_code == 200, retry.text
    assert retry.headers["Idempotent-Replayed"] == "true"
    assert retry.headers["Location"] == first.headers["Location"]
    assert retry.json() == {**posted(first), "replayed": True}
    return posted(first)


def transfer(client: httpx.Client, debit: int, credit: int, amount_minor: int, **headers: str) -> httpx.Response:
    """Ask for a transfer; headers: more than, or others than, a new Idempotency-Key."""
    body = {"debit_account_id": debit, "credit_account_id": credit, "amount_minor": amount_minor}
    return client.post("/v1/transfers", json=body, headers={**new_key(), **headers})


def balance_of(client: httpx.Client, account_id: int) -> int:
    """Return the posted balance."""
    answer = client.get(f"/v1/accounts/{account_id}/balance")
    assert answer.status_code == 200, answer.text
    balance_minor: int = answer.json()["balance_minor"]
    return balance_minor


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem, which has this status and code and everything that every problem has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code, problem
    assert problem["type"] == f"urn:pgteller:error:{code}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    return problem


def fields_of(problem: dict[str, Any]) -> list[str]:
    """Return the fields that the problem names."""
    return [error["field"] for error in problem["errors"]]
