"""The service ends expired holds by itself, whatever becomes of its connections."""

import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Bank, Connection
from tests.helpers import call, open_account, violations
from tests.http_server import HttpServer, wait_for


def start(bank: Bank, **settings: int) -> Iterator[HttpServer]:
    http = HttpServer(bank.app_url, request_timeout_seconds=1, **settings)
    try:
        http.start()
        yield http
        http.terminate()
        assert http.process.wait(30) == 0
        assert "Traceback" not in http.log(), http.log()
    finally:
        http.stop()


@pytest.fixture
def http(bank: Bank) -> Iterator[HttpServer]:
    """Two workers that sweep every second."""
    yield from start(bank, hold_sweep_seconds=1)


def expired_hold(app: Connection, owner: Connection) -> tuple[int, int]:
    """Return an account and a hold of 60 on it whose deadline has passed."""
    account_id = open_account(app, 100)
    hold_id: int = call(app, "authorise", account_id, 60, expires_at="2090-01-01T00:00:00Z")["transaction_id"]
    owner.execute("update bank.hold set expires_at = clock_timestamp() where hold_id = %s", [hold_id])
    return account_id, hold_id


def in_the_books(owner: Connection, hold_id: int) -> tuple[str, int]:
    """Return the state of the hold in its table, and what its account's row says is held."""
    query = """
        select h.hold_status, a.held_minor
        from bank.hold as h
        inner join bank.account as a on h.ledger_id = a.ledger_id and h.account_id = a.account_id
        where h.hold_id = %s
    """
    row = owner.execute(query, [hold_id]).fetchone()
    assert row is not None
    return row["hold_status"], row["held_minor"]


def await_expired(owner: Connection, hold_id: int) -> None:
    wait_for(lambda: in_the_books(owner, hold_id) == ("expired", 0), "the hold is taken out of the books")


@pytest.mark.usefixtures("http")
def test_an_expired_hold_is_taken_out_of_the_books(app: Connection, owner: Connection) -> None:
    hold_ids = [expired_hold(app, owner)[1] for _ in range(3)]
    _, stays = open_account(app, 100), call(app, "authorise", open_account(app, 100), 60)["transaction_id"]
    for hold_id in hold_ids:
        await_expired(owner, hold_id)
    assert in_the_books(owner, stays) == ("open", 60)
    assert violations(owner) == []


def test_more_expired_holds_than_one_call_ends_are_ended(bank: Bank, app: Connection, owner: Connection) -> None:
    app.execute("select bank.open_account('Ada', 'EUR') from generate_series(1, 250)")
    app.execute("select bank.credit(a.account_id, 100) from bank.account_detail as a where a.overdraft_limit_minor = 0")
    app.execute(
        "select bank.authorise(a.account_id, 60, expires_at => now() + interval '1 day')"
        " from bank.account_detail as a where a.overdraft_limit_minor = 0"
    )
    owner.execute("update bank.hold set expires_at = clock_timestamp()")
    query = "select count(*) from bank.hold where hold_status = 'expired'"
    for _ in start(bank, workers=1, hold_sweep_seconds=1):
        wait_for(lambda: owner.execute(query).fetchone() == {"count": 250}, "all are ended")


def test_the_sweeper_survives_the_end_of_its_connections(
    http: HttpServer, bank: Bank, app: Connection, owner: Connection
) -> None:
    workers = http.worker_pids()
    await_expired(owner, expired_hold(app, owner)[1])
    with psycopg.connect(bank.server.conninfo("postgres"), autocommit=True) as postgres:
        for _ in range(3):
            query = (
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and application_name = %s"
            )
            postgres.execute(query, [bank.dbname, "pgteller"])
            await_expired(owner, expired_hold(app, owner)[1])
    assert http.worker_pids() == workers


def test_the_sweeper_survives_an_outage_of_the_database(http: HttpServer, bank: Bank) -> None:
    workers = http.worker_pids()
    database = sql.Identifier(bank.dbname)
    with psycopg.connect(bank.server.conninfo("postgres"), autocommit=True) as postgres:
        with bank.connect() as app, bank.connect("bank_owner") as owner:
            _, hold_id = expired_hold(app, owner)
            await_expired(owner, hold_id)
        postgres.execute(sql.SQL("alter database {} allow_connections false").format(database))
        try:
            postgres.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [bank.dbname])
            wait_for(lambda: "expired holds not ended" in http.log(), "a sweep fails, and says so")
        finally:
            postgres.execute(sql.SQL("alter database {} allow_connections true").format(database))
    with bank.connect() as app, bank.connect("bank_owner") as owner:
        await_expired(owner, expired_hold(app, owner)[1])
    assert http.worker_pids() == workers


def test_with_0_seconds_nothing_sweeps(bank: Bank, app: Connection, owner: Connection) -> None:
    for http in start(bank, workers=1, hold_sweep_seconds=0):
        account_id, hold_id = expired_hold(app, owner)
        with http.client() as client:
            time.sleep(1.5)  # there is nothing to wait for
            assert client.get("/health/ready").status_code == 200
        assert in_the_books(owner, hold_id) == ("open", 60)
        assert call(app, "balance", account_id)["available_balance_minor"] == 100  # it does not count all the same
