"""A database that takes no writes: a standby, or a primary set so. And a commit that its standby never confirmed."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import psycopg
import pytest
from psycopg import sql

from service import keys
from service.embedded import EmbeddedPostgres
from service.migrate import migrate
from service.owner import call, connect
from tests.conftest import APP_PASSWORD, Bank, Connection
from tests.http.conftest import balance_of, new_key, open_account, post, problem_of, transfer
from tests.http_server import HttpServer, create_key, violations, wait_for


@contextmanager
def serving(url: str, **settings: int) -> Iterator[HttpServer]:
    http = HttpServer(url, workers=1, hold_sweep_seconds=0, **settings)
    try:
        http.start()
        yield http
        assert "Traceback" not in http.log(), http.log()
    finally:
        http.stop()


def set_read_only(bank: Bank, value: str) -> None:
    """Set it for the sessions to come, and end those that there are."""
    with psycopg.connect(bank.server.conninfo("postgres"), autocommit=True) as postgres:
        set_it = sql.SQL("alter database {} set default_transaction_read_only = {}")
        postgres.execute(set_it.format(sql.Identifier(bank.dbname), value))
        query = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and usename = 'bank_app'"
        postgres.execute(query, [bank.dbname])


@pytest.fixture
def other_bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """A bank in a server of the test's own."""
    pgbin = os.environ.get("PGTELLER_TEST_PGBIN")
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgresql"), pgbin=Path(pgbin) if pgbin else None)
    try:
        server.start()
        bank = Bank(server, "postgres")
        migrate(bank.owner_url)
        with psycopg.connect(bank.owner_url, autocommit=True) as connection:
            connection.execute(f"alter role bank_app login password '{APP_PASSWORD}'")
        yield bank
    finally:
        server.destroy()


def test_writes_are_refused_reads_are_answered_and_readiness_says_why(bank: Bank, owner: Connection) -> None:
    key, _ = create_key(bank)
    with serving(bank.app_url, pool_connections_max=1) as http, http.client(key) as client:
        ada, bob = open_account(client, balance_minor=100), open_account(client)
        headers, opening = new_key(), {"holder_name": "Eve", "currency": "EUR"}
        set_read_only(bank, "on")
        assert balance_of(client, ada) == 100  # on a new connection: what a broken one has done is not known
        for answer in (
            transfer(client, ada, bob, 1, **headers),
            post(client, "/v1/holds", {"account_id": ada, "amount_minor": 1}),
            post(client, "/v1/accounts", opening),
            client.post(f"/v1/accounts/{ada}/freeze", json={}),
        ):
            problem_of(answer, 503, "read_only")
            assert answer.headers["Retry-After"] == "1"
        assert balance_of(client, ada) == 100
        assert len(client.get(f"/v1/accounts/{ada}/entries").json()["entries"]) == 1
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        checks = {name: state for name, state in ready.json()["checks"].items() if state != "ok"}
        assert checks == {
            "version": "newest",
            "writable": "the database takes no writes: default_transaction_read_only",
        }

        # Nobody ends the sessions now: the service itself lets go of those that take no writes.
        with psycopg.connect(bank.server.conninfo("postgres"), autocommit=True) as postgres:
            postgres.execute(f"alter database {bank.dbname} reset default_transaction_read_only")
        wait_for(lambda: transfer(client, ada, bob, 1, **headers).status_code == 201, "it is posted after all", 10)
        wait_for(lambda: client.get("/health/ready").status_code == 200, "the service is ready again", 10)
        assert (balance_of(client, ada), balance_of(client, bob)) == (99, 1)
        assert violations(owner) == []


def test_the_service_goes_over_to_the_server_that_takes_writes(bank: Bank, other_bank: Bank) -> None:
    """As after a failover: the URL names both, and target_session_attrs=read-write."""
    key, _ = create_key(bank)
    with connect(other_bank.owner_url) as owner:
        call(owner, "create_api_key", name="tests", key_digest=keys.digest(key), scopes=["admin"])
    hosts = [quote(_host(each), safe="") for each in (bank, other_bank)]
    url = f"postgresql://bank_app:{APP_PASSWORD}@/{bank.dbname}?host={','.join(hosts)}&target_session_attrs=read-write"
    with psycopg.connect(other_bank.server.conninfo("template1"), autocommit=True) as connection:
        connection.execute(f"alter database {other_bank.dbname} rename to {bank.dbname}")
    with serving(url) as http, http.client(key) as client:
        assert open_account(client, balance_minor=5) in _account_ids(bank)
        set_read_only(bank, "on")
        wait_for(lambda: _opens(client) == 201, "accounts are opened in the other server", 10)
        wait_for(lambda: client.get("/health/ready").status_code == 200, "the service is ready", 10)
        assert open_account(client, balance_minor=7) in _account_ids(Bank(other_bank.server, bank.dbname))


def test_readiness_goes_over_though_nobody_ends_its_session_in_the_server_that_takes_no_writes_any_more(
    bank: Bank, other_bank: Bank
) -> None:
    hosts = [quote(_host(each), safe="") for each in (other_bank, bank)]
    url = f"postgresql://bank_app:{APP_PASSWORD}@/{bank.dbname}?host={','.join(hosts)}&target_session_attrs=read-write"
    with (
        psycopg.connect(other_bank.server.conninfo("template1"), autocommit=True) as demoted,
        psycopg.connect(bank.owner_url, autocommit=True) as promoted,
    ):
        demoted.execute(f"alter database {other_bank.dbname} rename to {bank.dbname}")
        sessions = "select from pg_stat_activity where datname = %s and application_name = 'pgteller readiness'"
        with serving(url) as http, http.client() as client:
            assert demoted.execute(sessions, [bank.dbname]).rowcount == 1
            demoted.execute("alter system set default_transaction_read_only = on")
            demoted.execute("select pg_reload_conf()")

            def has_gone_over() -> bool:
                is_ready = client.get("/health/ready").status_code == 200
                return is_ready and promoted.execute(sessions, [bank.dbname]).rowcount == 1

            wait_for(has_gone_over, "the service is ready, and asks the other server", 10)


def _account_ids(bank: Bank) -> list[int]:
    with bank.connect("bank_owner") as owner:
        return [row["account_id"] for row in owner.execute("select account_id from bank.account where not settlement")]


def _host(bank: Bank) -> str:
    with psycopg.connect(bank.server.conninfo("template1")) as connection:
        return connection.info.host


def _opens(client: httpx.Client) -> int:
    return post(client, "/v1/accounts", {"holder_name": "Eve", "currency": "EUR"}).status_code


def test_a_commit_that_stopped_waiting_for_its_standby_is_no_success(other_bank: Bank) -> None:
    key, _ = create_key(other_bank)
    with (
        serving(other_bank.app_url) as http,
        http.client(key) as client,
        psycopg.connect(other_bank.owner_url, autocommit=True) as postgres,
        ThreadPoolExecutor(1) as threads,
    ):
        ada, bob = open_account(client, balance_minor=100), open_account(client)
        headers = new_key()
        postgres.execute("alter system set synchronous_standby_names = 'a_standby_that_is_away'")
        postgres.execute("select pg_reload_conf()")
        waiting = "select pid from pg_stat_activity where wait_event = 'SyncRep'"
        try:
            wait_for(lambda: postgres.execute("show synchronous_standby_names").fetchone() != ("",), "it is in force")
            answer = threads.submit(transfer, client, ada, bob, 1, **headers)
            wait_for(lambda: bool(postgres.execute(waiting).fetchall()), "the commit waits for the standby")
            postgres.execute(f"select pg_cancel_backend(pid) from ({waiting}) as waits")
            problem_of(answer.result(), 503, "outcome_unknown")
        finally:
            postgres.execute("alter system reset synchronous_standby_names")
            postgres.execute("select pg_reload_conf()")
        replay = transfer(client, ada, bob, 1, **headers)
        assert (replay.status_code, balance_of(client, bob)) == (200, 1)
