"""Behind a real PgBouncer: our rights and settings are nobody else's, commands and errors say what is to be done."""

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import psycopg
import pytest

from service import db, owner, watch
from service.config import Settings
from service.db import Pool
from service.owner import call, connect
from tests.cli.conftest import run_command
from tests.conftest import APP_PASSWORD, Bank
from tests.http.conftest import balance_of, new_key, open_account, post, posted, problem_of, transfer
from tests.http_server import HttpServer, create_key, violations, wait_for
from tests.pgbouncer import PgBouncer, keeping_no_statements, needs_pgbouncer

pytestmark = needs_pgbouncer

PASSWORD = "password-of-other-logins"
_numbers = itertools.count(1)


@contextmanager
def pgbouncer(bank: Bank, pool_mode: str = "transaction", **settings: object) -> Iterator[PgBouncer]:
    """PgBouncer before the bank's server. More logins: `users`, by name, with their passwords."""
    users = {"bank_app": APP_PASSWORD, **settings.pop("users", {})}  # type: ignore[dict-item]
    pooler = PgBouncer(bank.server, users, pool_mode, **settings)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.close()


@contextmanager
def serving(url: str, **settings: int) -> Iterator[HttpServer]:
    http = HttpServer(url, **{"workers": 1, "hold_sweep_seconds": 0, **settings})
    try:
        http.start()
        yield http
        assert "Traceback" not in http.log(), http.log()
    finally:
        http.stop()


@contextmanager
def login(bank: Bank, *rights: str) -> Iterator[str]:
    """Make a login that is a member of bank_app, with these statements about it, and return its name."""
    name = f"pooled_{next(_numbers)}"
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute(f"create role {name} login password '{PASSWORD}' in role bank_app".encode())
        try:
            for right in rights:
                superuser.execute(right.format(name).encode())
            yield name
        finally:
            superuser.execute(f"drop owned by {name}".encode())
            superuser.execute(f"drop role {name}".encode())


@pytest.fixture
def key(bank: Bank) -> str:
    return create_key(bank)[0]


# ---- what is shared, and what is not ------------------------------------------------------------------------


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_money_moves_behind_a_pooler_and_what_fails_leaves_it_usable(bank: Bank, key: str, pool_mode: str) -> None:
    with pgbouncer(bank, pool_mode) as pooler, serving(pooler.of(bank.app_url)) as http, http.client(key) as client:
        ada, bob = open_account(client, balance_minor=100), open_account(client)
        for _ in range(10):
            posted(transfer(client, ada, bob, 5))
            problem_of(transfer(client, ada, 10**12, 5), 404, "account_not_found")
        assert client.post(f"/v1/accounts/{ada}/credit?dry_run=true", json={"amount_minor": 7}, headers=new_key())
        assert (balance_of(client, ada), balance_of(client, bob)) == (50, 50)
        with bank.connect("bank_owner") as connection:
            assert violations(connection) == []


def test_nobody_behind_the_pooler_gets_our_role_or_settings_and_we_get_none_of_theirs(bank: Bank) -> None:
    """One backend for all, so that whatever is left in it reaches the next."""
    chosen = replace(Settings(), lock_timeout_ms=321)
    telltale = """
        create or replace function bank.account(account_id bigint, ledger_id bigint default 1)
        returns bank.account_detail language plpgsql as $$
        begin
            raise exception using errcode = 'TLTEL', message = 'telltale', detail = jsonb_build_object(
                'role', current_user, 'lock_timeout', current_setting('lock_timeout'),
                'isolation', current_setting('transaction_isolation'), 'zone', current_setting('timezone'),
                'date_style', current_setting('datestyle'), 'durable', current_setting('synchronous_commit'),
                'statement_timeout', current_setting('statement_timeout'),
                'transaction_timeout', coalesce(current_setting('transaction_timeout', true), '0')
            );
        end $$
    """
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute(telltale.encode())
    ours = {
        "role": "bank_app",
        "lock_timeout": "321ms",
        "isolation": "read committed",
        "zone": "UTC",
        "date_style": "ISO, MDY",
        "durable": "on",
        "statement_timeout": "9s",
        "transaction_timeout": "0",
    }
    with login(bank, "create role {0}_other", "grant {0}_other to {0}") as name:
        users = {name: PASSWORD}
        with pgbouncer(bank, default_pool_size=1, users=users) as pooler:
            url = pooler.of(bank.server.conninfo(bank.dbname, name, PASSWORD))
            try:
                with psycopg.connect(url, autocommit=True, prepare_threshold=None) as other:
                    pid = other.execute("select pg_backend_pid()").fetchone()
                    asyncio.run(_told(replace(chosen, database_url=url)))
                    row = other.execute(
                        "select pg_backend_pid(), current_user::text, current_setting('role'),"
                        " current_setting('lock_timeout'), current_setting('statement_timeout')"
                    ).fetchone()
                    assert row == (*(pid or ()), name, "none", "0", "0")

                    for left_behind in (
                        f"set role {name}_other",
                        "set lock_timeout = '77s'",
                        "set statement_timeout = '88s'",
                        "set default_transaction_isolation = 'serializable'",
                        "set timezone = 'Asia/Tokyo'",
                        "set datestyle = 'SQL, DMY'",
                        "set synchronous_commit = off",
                        "select set_config(name, '99s', false) from pg_settings where name = 'transaction_timeout'",
                    ):
                        other.execute(left_behind.encode())
                    told = asyncio.run(_told(replace(chosen, database_url=url)))
                    assert {**told, "date_style": ours["date_style"]} == ours
                    assert told["date_style"].startswith("ISO")
                    shown = other.execute("select current_user::text, current_setting('lock_timeout')").fetchone()
                    assert shown == (f"{name}_other", "77s")
            finally:
                with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
                    superuser.execute(f"drop role {name}_other".encode())


async def _told(settings: Settings) -> dict[str, Any]:
    """Return what the service's own way to call a function finds set."""
    async with Pool(settings) as pool:
        try:
            await db.call(pool, "account", account_id=1)
        except psycopg.Error as error:
            assert error.sqlstate == "TLTEL", error
            told: dict[str, Any] = json.loads(error.diag.message_detail or "")
            return told
    raise AssertionError("not told")


def test_what_another_client_has_left_that_forbids_to_write_is_taken_back_and_an_administrators_is_not(
    bank: Bank, key: str
) -> None:
    with (
        pgbouncer(bank, default_pool_size=1) as pooler,
        serving(pooler.of(bank.app_url)) as http,
        http.client(key) as client,
        psycopg.connect(pooler.of(bank.app_url), autocommit=True, prepare_threshold=None) as other,
    ):
        account_id = open_account(client)

        def ready() -> dict[str, Any]:
            checks: dict[str, Any] = client.get("/health/ready").json()["checks"]
            return checks

        other.execute("set default_transaction_read_only = on")
        posted(post(client, f"/v1/accounts/{account_id}/credit", {"amount_minor": 1}))
        assert other.execute("show default_transaction_read_only").fetchone() == ("off",)

        other.execute("set default_transaction_read_only = on")
        assert ready()["writable"] == "ok"

        with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
            superuser.execute(b"alter role bank_app set default_transaction_read_only = on")
            try:
                pooler.admin("RECONNECT")
                problem_of(post(client, f"/v1/accounts/{account_id}/credit", {"amount_minor": 1}), 503, "read_only")
                assert ready()["writable"].endswith("default_transaction_read_only")
            finally:
                superuser.execute(b"alter role bank_app reset default_transaction_read_only")
                pooler.admin("RECONNECT")
        posted(post(client, f"/v1/accounts/{account_id}/credit", {"amount_minor": 1}))
        assert balance_of(client, account_id) == 2


def test_what_another_client_has_left_that_forbids_views_stops_nobody(bank: Bank, key: str) -> None:
    forbid = "select set_config(name, 'view', false) from pg_settings where name = 'restrict_nonsystem_relation_kind'"
    with (
        pgbouncer(bank, default_pool_size=1) as pooler,
        serving(pooler.of(bank.app_url)) as http,
        http.client(key) as client,
        psycopg.connect(pooler.of(bank.app_url), autocommit=True, prepare_threshold=None) as other,
    ):
        if not other.execute(forbid.encode()).rowcount:
            pytest.skip("this PostgreSQL has no such setting")
        account_id = open_account(client, balance_minor=3)
        assert balance_of(client, account_id) == 3


def test_a_pooler_that_has_fewer_connections_than_the_service_is_enough(bank: Bank, key: str) -> None:
    with (
        pgbouncer(bank, default_pool_size=2) as pooler,
        serving(pooler.of(bank.app_url), pool_connections_max=8) as http,
        http.client(key) as client,
    ):
        accounts = [open_account(client, balance_minor=100) for _ in range(4)]

        async def many() -> list[int]:
            headers = {"Authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(base_url=http.url, headers=headers, timeout=30) as crowd:
                posts = [
                    crowd.post(f"/v1/accounts/{accounts[n % 4]}/credit", json={"amount_minor": 1}, headers=new_key())
                    for n in range(200)
                ]
                return [answer.status_code for answer in await asyncio.gather(*posts)]

        assert set(asyncio.run(many())) == {201}
        assert sum(balance_of(client, account_id) for account_id in accounts) == 600


def test_a_locked_row_holds_up_only_those_who_name_it(bank: Bank, key: str) -> None:
    credit = {"amount_minor": 1}
    with (
        pgbouncer(bank) as pooler,
        serving(pooler.of(bank.app_url), request_timeout_seconds=2) as http,
        http.client(key) as client,
    ):
        locked, free = open_account(client, balance_minor=9), open_account(client)
        with bank.connect("bank_owner", autocommit=False) as holder:
            holder.execute("select from bank.account where account_id = %s for update", [locked])
            for _ in range(3):
                posted(post(client, f"/v1/accounts/{free}/credit", credit))
            problem_of(post(client, f"/v1/accounts/{locked}/credit", credit), 503, "timed_out")
            posted(post(client, f"/v1/accounts/{free}/credit", credit))
        posted(post(client, f"/v1/accounts/{locked}/credit", credit))
        assert (balance_of(client, locked), balance_of(client, free)) == (10, 4)


def test_a_backend_that_is_ended_leaves_only_lines_of_the_log(bank: Bank, key: str) -> None:
    waiting = "select pg_terminate_backend(pid) from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
    with (
        pgbouncer(bank) as pooler,
        serving(pooler.of(bank.app_url), lock_timeout_ms=700) as http,
        http.client(key) as client,
        ThreadPoolExecutor() as executor,
    ):
        account_id = open_account(client)
        with (
            psycopg.connect(bank.owner_url) as holder,
            psycopg.connect(bank.owner_url, autocommit=True) as superuser,
        ):
            holder.execute("select from bank.account where account_id = %s for update", [account_id])
            posting = executor.submit(post, client, f"/v1/accounts/{account_id}/credit", {"amount_minor": 1})
            wait_for(
                lambda: superuser.execute(waiting, [holder.info.backend_pid]).rowcount > 0,
                "the posting waits, and ends",
            )
            holder.rollback()
        posted(posting.result())
        assert balance_of(client, account_id) == 1
        assert "error ignored" not in http.log()


# ---- who is let in ------------------------------------------------------------------------------------------


def test_serve_refuses_a_login_with_more_rights_behind_a_pooler_and_says_what_to_do(bank: Bank) -> None:
    with login(bank, "grant bank_owner to {}") as name, pgbouncer(bank, users={name: PASSWORD}) as pooler:
        direct = bank.server.conninfo(bank.dbname, name, PASSWORD)
        result = run_command(("serve",), {"DATABASE_URL": pooler.of(direct), "PORT": "0"})
        assert result.exit_code == 1
        assert f"the login {name} is a member of bank_owner" in result.output
        assert "pgteller logins create NAME" in result.output
        assert PASSWORD not in result.output

        # Without `serve` before it, and when the rights came later: a worker does not work with it either.
        http = HttpServer(pooler.of(direct), workers=1, request_timeout_seconds=1)
        try:
            http.start(ready=False)
            wait_for(lambda: f"the login {name} is a member of bank_owner" in http.log(), "the log says why")
            assert httpx.get(f"{http.url}/health/ready").status_code == 503
        finally:
            http.stop()

        # On a connection of its own it steps down.
        with serving(direct) as http, http.client(create_key(bank)[0]) as client:
            open_account(client)


# ---- commands -----------------------------------------------------------------------------------------------


def test_status_and_verify_work_through_a_pooler(bank: Bank) -> None:
    with pgbouncer(bank) as pooler:
        for command in (["status"], ["verify"], ["verify", "--whole"]):
            result = run_command(tuple(command), {"DATABASE_URL": pooler.of(bank.app_url), "PORT": "1"})
            assert result.exit_code == 0, result.output


def test_status_gives_up_when_the_pooler_is_paused(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "ANSWER_SECONDS_MAX", 1)
    with pgbouncer(bank) as pooler:
        told = {"DATABASE_URL": pooler.of(bank.app_url), "PORT": "1"}
        assert run_command(("status",), told).exit_code == 0
        pooler.admin("PAUSE")
        resume = threading.Timer(60, pooler.admin, ["RESUME"])  # else one that does not give up would wait for ever
        resume.start()
        try:
            result = run_command(("status",), told)
        finally:
            resume.cancel()
        assert result.exit_code == 1
        assert result.output == "Error: PostgreSQL has not answered within 6 s\n"


def test_a_command_behind_a_pooler_says_whom_it_waits_for_though_its_backend_changes(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "ASK_SECONDS", 0.3)
    monkeypatch.setattr(watch, "REPORT_SECONDS", 0.5)
    found: list[object] = []
    said: list[str] = []

    def is_said(words: str) -> bool:
        said.append(capsys.readouterr().err)
        return words in "".join(said)

    with pgbouncer(bank) as pooler, psycopg.connect(pooler.of(bank.app_url), prepare_threshold=None) as holder:

        def verify() -> None:
            with connect(pooler.of(bank.app_url), "bank_app") as connection:
                first = call(connection, "health")
                holder.execute("select 1")  # takes the backend of the call before
                found.append((len(first), call(connection, "verify", ledger_id=None)))

        with psycopg.connect(bank.owner_url, application_name="closing-time") as blocker:
            blocker.execute("lock table bank.account in access exclusive mode")
            thread = threading.Thread(target=verify)
            thread.start()
            wait_for(lambda: is_said(f"waits for process {blocker.info.backend_pid} (closing-time)"), "it is said")
        thread.join(60)
    assert found == [(1, [])]


@pytest.mark.parametrize("ignored", ["", "options"])
@pytest.mark.parametrize("command", [["migrate"], ["keys", "list"], ["correct-times"]], ids=" ".join)
def test_what_acts_as_the_owner_refuses_a_pooler_and_leaves_nothing_in_it(
    bank: Bank, command: list[str], ignored: str
) -> None:
    with login(bank, "alter role {} superuser") as name:
        direct = bank.server.conninfo(bank.dbname, name, PASSWORD)
        with pgbouncer(bank, users={name: PASSWORD}, ignore_startup_parameters=ignored) as pooler:
            result = run_command(tuple(command), {"DATABASE_URL": pooler.of(direct)})
            assert result.exit_code == 1
            assert "set DATABASE_OWNER_URL" in result.output
            assert PASSWORD not in result.output
            with psycopg.connect(bank.owner_url) as connection:
                assert connection.execute("select from pg_locks where locktype = 'advisory'").rowcount == 0
            urls = {"DATABASE_URL": pooler.of(direct), "DATABASE_OWNER_URL": direct}
            result = run_command(tuple(command), urls)
            assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", [["migrate"], ["keys", "list"]], ids=" ".join)
def test_what_makes_up_process_ids_but_keeps_sessions_apart_will_do_where_the_setting_says_so(
    bank: Bank, command: list[str]
) -> None:
    with login(bank, "alter role {} superuser") as name:
        direct = bank.server.conninfo(bank.dbname, name, PASSWORD)
        with pgbouncer(bank, "session", users={name: PASSWORD}, ignore_startup_parameters="options") as pooler:
            told = {"DATABASE_URL": pooler.of(direct), "DATABASE_POOLER": "none"}
            result = run_command(tuple(command), told)
            assert result.exit_code == 0, result.output


def test_a_setting_that_tells_of_a_pooler_is_believed(bank: Bank) -> None:
    told = {"DATABASE_URL": bank.owner_url, "DATABASE_POOLER": "transaction"}
    for command in (["keys", "list"], ["migrate"]):
        result = run_command(tuple(command), told)
        assert result.exit_code == 1
        assert "set DATABASE_OWNER_URL" in result.output
    assert run_command(("status",), {**told, "DATABASE_URL": bank.app_url}).exit_code == 0
    assert run_command(("keys", "list"), {"DATABASE_URL": bank.owner_url, "DATABASE_POOLER": "none"}).exit_code == 0
    result = run_command(("status",), {"DATABASE_URL": bank.app_url, "DATABASE_POOLER": "sometimes"})
    assert result.exit_code == 2
    assert "DATABASE_POOLER" in result.output


def test_a_prepared_statement_that_the_pooler_has_lost_fails_nothing(
    bank: Bank, capfd: pytest.CaptureFixture[str]
) -> None:
    """The setting says wrongly that there is no pooler: connections find on the one backend what others prepared."""

    async def open_accounts(settings: Settings) -> list[list[dict[str, Any]]]:
        async with Pool(settings, connections_min=4, connections_max=4) as pool:
            await pool.wait()
            opening = (db.call(pool, "open_account", holder_name="Ada", currency="EUR") for _ in range(20))
            return await asyncio.gather(*opening)

    with pgbouncer(bank, default_pool_size=1, **keeping_no_statements()) as pooler:
        settings = replace(Settings(), database_url=pooler.of(bank.app_url), database_pooler="none")
        opened = asyncio.run(open_accounts(settings))
    assert len({rows[0]["account_id"] for rows in opened}) == 20
    assert "set DATABASE_POOLER=transaction" in capfd.readouterr().out
    with bank.connect() as app:
        count = "select count(*) as opened from bank.account_detail where holder_name = 'Ada'"
        assert app.execute(count).fetchall() == [{"opened": 20}]


# ---- words --------------------------------------------------------------------------------------------------

OBJECTIONS: dict[str, tuple[dict[str, Any], Callable[[str], str], str]] = {
    "statement mode": ({"pool_mode": "statement"}, str, "set its pool_mode to transaction or session"),
    "options": ({}, lambda url: f"{url}&options=-c%20work_mem%3D7MB", "leave it out of the URL"),
    "too many clients": ({"max_client_conn": 1}, str, "the pooler has as many clients as its max_client_conn allows"),
}


def test_a_pooler_in_session_mode_that_has_too_few_connections_is_named(bank: Bank) -> None:
    with pgbouncer(bank, "session", default_pool_size=1) as pooler:
        http = HttpServer(pooler.of(bank.app_url), workers=1, request_timeout_seconds=1, hold_sweep_seconds=0)
        try:
            http.start(ready=False)

            # One connection of the service is the pooler's only one; that for readiness finds none.
            def not_ready() -> bool:
                with suppress(httpx.TransportError):
                    return httpx.get(f"{http.url}/health/ready").status_code == 503
                return False

            words = "default_pool_size must be WEB_CONCURRENCY x (POOL_CONNECTIONS_MAX + 3) or more"
            wait_for(lambda: not_ready() and words in http.log(), "the log says what may be the cause")
        finally:
            http.stop()


@contextmanager
def only_client(url: str) -> Iterator[None]:
    """Be a client of the pooler, as soon as it has noticed that whoever saw it listen has gone."""
    connections: list[psycopg.Connection[Any]] = []

    def connected() -> bool:
        with suppress(psycopg.OperationalError):
            connections.append(psycopg.connect(url))
        return bool(connections)

    wait_for(connected, "there is room for a client")
    with connections[0]:
        yield


@pytest.mark.parametrize("objection", OBJECTIONS)
def test_what_the_pooler_objects_to_is_said_by_the_log_and_by_serve(bank: Bank, objection: str) -> None:
    settings, change, words = OBJECTIONS[objection]
    with pgbouncer(bank, **settings) as pooler:
        url = change(pooler.of(bank.app_url))
        with only_client(pooler.of(bank.app_url)):
            result = run_command(("serve",), {"DATABASE_URL": url, "PORT": "0"})
            assert result.exit_code == 1
            assert words in result.output
            assert APP_PASSWORD not in result.output
            http = HttpServer(url, workers=1, request_timeout_seconds=1)
            try:
                http.start(ready=False)
                wait_for(lambda: words in http.log(), "the log says why")
                assert APP_PASSWORD not in http.log()
            finally:
                http.stop()
