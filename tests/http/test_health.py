"""Liveness is about the process, readiness about what it needs."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import falcon
import falcon.asgi
import falcon.testing
import httpx
import psycopg
import pytest
from psycopg import sql

from service.config import Settings
from service.db import Pool
from service.health import Ready
from service.installation import last_migration_id
from service.migrate import migrate
from tests.conftest import Bank, Connection
from tests.http.conftest import Service, new_key, open_account, problem_of
from tests.http_server import HttpServer, create_key, wait_for


@pytest.fixture
def own_http(bank: Bank) -> Iterator[HttpServer]:
    """A service on a bank of the test's own."""
    http = HttpServer(bank.app_url, workers=1, request_timeout_seconds=1)
    try:
        http.start()
        yield http
    finally:
        http.stop()


def test_a_service_with_its_database_is_live_and_ready(service: Service) -> None:
    with service.http.client() as client:
        live, ready = client.get("/health/live"), client.get("/health/ready")
    assert (live.status_code, live.json()) == (200, {"status": "live"})
    checks = {"database": "ok", "migrations": "ok", "sql": "ok", "writable": "ok", "clock": "ok", "version": "newest"}
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "checks": checks})


@pytest.mark.parametrize(
    ("installed", "check", "fault"),
    [
        (("sql_digest", "another"), "sql", "its functions are of another version: run `pgteller migrate`"),
        (
            ("migration_id", "0001.ledger"),
            "migrations",
            f"its last migration is 0001.ledger, this version needs {last_migration_id()}: run `pgteller migrate`",
        ),
        (
            ("migration_id", "9999.later"),
            "migrations",
            "this version is too old for the database, whose last migration is 9999.later: install version 7.7.7",
        ),
    ],
)
def test_a_database_of_a_version_that_this_one_does_not_work_on_is_not_ready_and_says_what_to_do(
    bank: Bank, own_http: HttpServer, installed: tuple[str, str], check: str, fault: str
) -> None:
    column, value = installed
    with bank.connect("bank_owner") as owner, own_http.client() as client:
        owner.execute(sql.SQL("update bank.installation set {} = %s").format(sql.Identifier(column)), [value])
        owner.execute("update bank.installed_version set sql_digest = 'another', release = '7.7.7'")
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["status"] == "not ready"
        faults = {name: state for name, state in answer.json()["checks"].items() if state != "ok"}
        assert faults == {check: fault}
        assert client.get("/health/live").status_code == 200

        migrate(bank.owner_url)
        assert client.get("/health/ready").status_code == 200


def test_a_service_of_an_earlier_version_is_ready_and_tells_of_the_newer_one(bank: Bank, own_http: HttpServer) -> None:
    with bank.connect("bank_owner") as owner, own_http.client() as client:
        owner.execute("update bank.installation set (sql_digest, migration_id) = ('later', '9999.later')")
        owner.execute("insert into bank.installed_version values (2, 'later', '9999.later', '7.7.7')")
        answer = client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (200, "ready")
        assert answer.json()["checks"]["version"] == "a newer version is installed"
        owner.execute("delete from bank.installed_version where installation_number = 1")
        assert client.get("/health/ready").status_code == 503


def test_entries_from_the_future_are_told_and_do_not_take_the_bank_out_of_service(
    bank: Bank, own_http: HttpServer
) -> None:
    key, _ = create_key(bank)
    with bank.connect("bank_owner") as owner, own_http.client(key) as client:
        account_id = open_account(client, balance_minor=500)
        owner.execute("update bank.entry set created_at = '2096-01-01' where account_id = %s", [account_id])
        answer = client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (200, "ready")
        assert answer.json()["checks"]["clock"] == "entries from the future: run `pgteller correct-times`"

        owner.execute("update bank.entry set created_at = now() where account_id = %s", [account_id])
        assert client.get("/health/ready").json()["checks"]["clock"] == "ok"


def test_a_clock_that_cannot_be_checked_in_time_does_not_hold_up_readiness(bank: Bank, own_http: HttpServer) -> None:
    """Who waits for a lock of the table stands for who reads too many pages."""
    with bank.connect("bank_owner", autocommit=False) as owner, own_http.client() as client:
        owner.execute("lock table bank.entry in access exclusive mode")
        answer = client.get("/health/ready")
        assert answer.elapsed.total_seconds() < 1
        owner.rollback()
        assert (answer.status_code, answer.json()["checks"]["clock"]) == (200, "not known: LockNotAvailable")
        assert client.get("/health/ready").json()["checks"]["clock"] == "ok"


def test_a_database_that_cannot_answer_now_is_not_told_to_be_without_its_migrations(
    bank: Bank, own_http: HttpServer
) -> None:
    with bank.connect("bank_owner", autocommit=False) as owner, own_http.client() as client:
        owner.execute("lock table bank.installation in access exclusive mode")
        answer = client.get("/health/ready")
        owner.rollback()
        assert answer.status_code == 503
        assert answer.json()["checks"] == {"database": "does not answer: LockNotAvailable"}
        assert client.get("/health/ready").status_code == 200


def test_a_probe_that_is_given_up_does_not_take_away_the_answer_of_those_that_share_it(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.health._SECONDS_MAX", 20.0)
    settings = replace(Settings(), database_url=bank.app_url, lock_timeout_ms=0)
    waiting = "select from pg_stat_activity where %s = any(pg_blocking_pids(pid))"

    async def probe(ready: Ready) -> str | int:
        response = falcon.asgi.Response()
        await ready.on_get(falcon.testing.create_asgi_req(), response)
        return response.status

    async def run(owner: Connection, observer: Connection) -> None:
        ready = Ready(settings)
        async with ready.pool:
            first, second = (asyncio.create_task(probe(ready)) for _ in range(2))
            async with asyncio.timeout(20):
                while not observer.execute(waiting, [owner.info.backend_pid]).rowcount:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            owner.rollback()
            assert await second == falcon.HTTP_200

    with bank.connect("bank_owner", autocommit=False) as owner, bank.connect("bank_owner") as observer:
        owner.execute("lock table bank.installation in access exclusive mode")
        asyncio.run(run(owner, observer))


def test_a_database_that_was_never_migrated_is_told_so(bank: Bank, own_http: HttpServer) -> None:
    with bank.connect("bank_owner") as owner, own_http.client() as client:
        owner.execute("revoke execute on function bank.health from bank_app")
        checks = client.get("/health/ready").json()["checks"]
        assert checks == {"database": "not migrated: InsufficientPrivilege"}
        owner.execute("alter function bank.health rename to health_of_another_version")
        checks = client.get("/health/ready").json()["checks"]
        assert checks == {"database": "not migrated: UndefinedFunction"}


def test_a_database_whose_functions_are_older_is_told_to_migrate_and_nothing_else(
    bank: Bank, own_http: HttpServer
) -> None:
    with bank.connect("bank_owner") as owner, own_http.client() as client:
        owner.execute("update bank.installation set sql_digest = 'of an older version'")
        owner.execute("delete from bank.installed_version")
        owner.execute("drop function bank.has_entries_from_the_future()")
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["checks"]["sql"] == "its functions are of another version: run `pgteller migrate`"
        assert answer.json()["checks"]["database"] == "ok"


def test_a_service_without_its_database_says_so_and_recovers_by_itself(bank: Bank, own_http: HttpServer) -> None:
    key, _ = create_key(bank)
    database = sql.Identifier(bank.dbname)
    with (
        psycopg.connect(bank.server.conninfo("postgres"), autocommit=True) as postgres,
        own_http.client(key) as client,
    ):
        account_id = open_account(client)
        path, body, headers = f"/v1/accounts/{account_id}/credit", {"amount_minor": 5}, new_key()
        postgres.execute(sql.SQL("alter database {} allow_connections false").format(database))
        try:
            query = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
            postgres.execute(query, [bank.dbname])
            answer = client.get("/health/ready")
            assert answer.status_code == 503
            assert answer.json()["checks"] == {"database": "not reachable, or does not answer in time"}
            assert client.get("/health/live").status_code == 200
            refused = client.post(path, json=body, headers=headers)
            problem_of(refused, 503, refused.json()["code"])
            assert refused.json()["code"] in ("database_unavailable", "outcome_unknown")
            assert refused.headers["Retry-After"] == "1"
        finally:
            postgres.execute(sql.SQL("alter database {} allow_connections true").format(database))
        wait_for(lambda: client.get("/health/ready").status_code == 200, "the service is ready again", 10)
        assert client.post(path, json=body, headers=headers).status_code == 201


def test_patience_with_locks_is_not_for_readiness_and_locked_rows_are_found_all_the_same(bank: Bank) -> None:
    key, _ = create_key(bank)
    http = HttpServer(bank.app_url, workers=1, request_timeout_seconds=10, lock_timeout_ms=2_500)
    try:
        http.start()  # returns when it is ready
        with http.client(key) as client, bank.connect("bank_owner", autocommit=False) as holder:
            account_id = open_account(client)
            holder.execute("select from bank.account where account_id = %s for update", [account_id])
            posting = client.post(f"/v1/accounts/{account_id}/credit", json={"amount_minor": 1}, headers=new_key())
            problem_of(posting, 503, "timed_out")
        assert "locked rows not found" not in http.log()
    finally:
        http.stop()


def test_the_search_for_the_database_never_pauses_longer_than_a_request_waits() -> None:
    """psycopg_pool doubles its pause without limit: after an outage of an hour it would sleep for another."""
    settings = Settings(database_url="postgresql://nowhere")
    assert Pool(settings).reconnect_timeout <= settings.request_timeout_seconds


def test_a_service_starts_without_its_database(bank: Bank) -> None:
    http = HttpServer(bank.app_url.replace(bank.dbname, "no_such_database"), workers=1, request_timeout_seconds=1)
    try:
        http.start(ready=False)

        def live() -> bool:
            try:
                return httpx.get(f"{http.url}/health/live").status_code == 200
            except httpx.TransportError:
                return False

        wait_for(live, "the service is live")
        assert httpx.get(f"{http.url}/health/ready").status_code == 503
    finally:
        http.stop()
