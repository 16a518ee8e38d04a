"""Logins of their own for SQL callers: made, listed, rotated and dropped, by roles that may and by others."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from service.config import Settings
from service.installation import ROOT
from service.local import LocalBank
from service.logins import url_of
from service.owner import connect
from service.session import login_settings
from tests.cli.conftest import Run, run_command
from tests.conftest import Bank, Connection

LOGINS = ("accounting", "Ann-Marie O'Neil", "tally", "taken")
DENIED = psycopg.errors.InsufficientPrivilege
CREDIT = "select transaction_status from bank.credit(2, 100)"


@pytest.fixture(autouse=True)
def _no_login_is_left(bank: Bank) -> Iterator[None]:
    """Roles are the server's, and outlive the database of a test."""
    yield
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        for name in LOGINS:
            role = sql.Identifier(name)
            if superuser.execute("select from pg_roles where rolname = %s", [name]).rowcount:
                superuser.execute(sql.SQL("drop owned by {} cascade").format(role))
                superuser.execute(sql.SQL("drop role {}").format(role))


@pytest.fixture
def provider(bank: Bank) -> Iterator[str]:
    """The URL of a role that may create roles, is no superuser, and did not install the bank."""
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("create role provider login createrole password 'secret' in role bank_owner")
        yield bank.server.conninfo(bank.dbname, "provider", "secret")
        superuser.execute("drop role provider")


def give_admin(bank: Bank, role: str, login: str) -> None:
    """Let a role that may create roles alter a login that another one made; before PostgreSQL 16 it may anyhow."""
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        if superuser.info.server_version >= 160_000:
            options = "admin true, inherit false, set false"
            superuser.execute(f"grant {login} to {role} with {options}".encode())


def create(run: Run, name: str = "accounting", *options: str) -> str:
    created = run("logins", "create", name, *options)
    assert created.exit_code == 0, created.output
    return created.stdout.strip()


@pytest.mark.parametrize("name", ["accounting", "Ann-Marie O'Neil"])
def test_a_login_calls_the_bank_by_the_url_that_was_printed_and_may_do_nothing_else(
    run: Run, app: Connection, name: str
) -> None:
    app.execute("select bank.open_account('Ada', 'EUR')")
    with psycopg.connect(create(run, name), autocommit=True) as login:
        assert login.info.user == name
        assert login.execute(CREDIT).fetchall() == [("success",)]
        for statement in ("update bank.account set balance_minor = 0", "truncate bank.entry", "set role bank_owner"):
            with pytest.raises(DENIED):
                login.execute(statement.encode())
        attributes = login.execute(
            "select rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls, rolinherit "
            "from pg_roles where rolname = session_user"
        ).fetchall()
    assert attributes == [(False, True)]


def test_a_login_that_reads_calls_nothing_that_writes(run: Run, app: Connection) -> None:
    app.execute("select bank.open_account('Ada', 'EUR')")
    with psycopg.connect(create(run, "accounting", "--read-only"), autocommit=True) as login:
        assert login.execute("select balance_minor from bank.balance(2)").fetchall() == [(0,)]
        with pytest.raises(DENIED):
            login.execute(CREDIT)


def test_the_settings_of_a_login_hold_without_startup_options_and_whatever_the_database_says(
    run: Run, bank: Bank
) -> None:
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        for setting in ("default_transaction_isolation = 'serializable'", "timezone = 'Asia/Tokyo'"):
            superuser.execute(f"alter database {bank.dbname} set {setting}".encode())
    with psycopg.connect(create(run)) as login:
        rows = login.execute("select lower(name), setting from pg_settings where source = 'user'").fetchall()
    assert dict(rows) == {
        **login_settings(),
        "datestyle": "ISO, MDY",
        "statement_timeout": "300000",
        "lock_timeout": "10000",
        "idle_in_transaction_session_timeout": "60000",
    }


def test_stdout_holds_the_url_alone_and_the_server_never_sees_the_password(run: Run, bank: Bank) -> None:
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("alter system set log_statement = 'all'")
        superuser.execute("select pg_reload_conf()")
        try:
            url = create(run)
        finally:
            superuser.execute("alter system reset log_statement")
            superuser.execute("select pg_reload_conf()")
    assert len(url.split()) == 1
    password = conninfo_to_dict(url)["password"]
    log = bank.server.log_file.read_text()
    assert "accounting" in log
    assert str(password) not in log


def test_a_password_of_the_operators_is_read_from_stdin_and_not_shown(run: Run, bank: Bank) -> None:
    secret = "p@ss:/?# word ü'\\"
    environment = {**os.environ, "DATABASE_OWNER_URL": bank.owner_url}
    for command in ("create", "rotate"):
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", "logins", command, "accounting", "--password-stdin"],
            input=f"{command} {secret}\n",
            env=environment,
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=30,
            check=True,
        )
        assert secret not in done.stdout + done.stderr
        url = done.stdout.strip()
        psycopg.connect(url, password=f"{command} {secret}").close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url, password=f"create {secret}")


def test_blanks_at_either_end_of_a_password_of_the_operators_are_part_of_it(bank: Bank) -> None:
    for command in ("create", "rotate"):
        secret = f"  {command} \t"
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", "logins", command, "accounting", "--password-stdin"],
            input=f"{secret}\n",
            env={**os.environ, "DATABASE_OWNER_URL": bank.owner_url},
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=30,
            check=True,
        )
        url = done.stdout.strip()
        psycopg.connect(url, password=secret).close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url, password=secret.strip())


def test_an_empty_password_is_refused(bank: Bank) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "logins", "create", "accounting", "--password-stdin"],
        input="\n",
        env={**os.environ, "DATABASE_OWNER_URL": bank.owner_url},
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "the password on standard input is empty" in done.stderr


@pytest.mark.parametrize("output", [">/dev/full", ">&-"])
def test_a_login_whose_url_could_not_be_printed_is_not_made(run: Run, bank: Bank, output: str) -> None:
    command = subprocess.run(
        ["/bin/sh", "-c", f"exec {sys.executable} -m service.cli logins create accounting {output}"],
        env={**os.environ, "DATABASE_OWNER_URL": bank.owner_url},
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert command.returncode == 1
    assert command.stderr.splitlines()[-1].startswith("Error: ")
    assert "accounting" not in run("logins", "list").stdout


@pytest.mark.parametrize("name", [" ", "pg_mine", "public", "none", "x" * 64, "ü" * 32])
def test_a_name_that_postgresql_would_not_take_or_would_cut_is_a_mistake_of_the_command_line(
    run: Run, name: str
) -> None:
    for command in ("create", "rotate", "drop"):
        assert run("logins", command, name).exit_code == 2


def test_a_name_that_is_taken_is_refused_and_the_role_is_left_as_it_is(run: Run, bank: Bank) -> None:
    create(run)
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("create role taken")
    again = run("logins", "create", "accounting")
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr == (
        "Error: accounting is a login already: `pgteller logins rotate accounting` gives it a new password\n"
    )
    for name in ("taken", "bank_app", "postgres"):
        refused = run("logins", "create", name)
        assert refused.stderr == f"Error: {name} is taken by a role that pgteller did not make: choose another name\n"
        for command in ("rotate", "drop"):
            refused = run("logins", command, name)
            assert refused.exit_code == 1
            assert refused.stderr.startswith(f"Error: {name} is a role that pgteller did not make: ")


def test_a_login_that_is_not_there_is_neither_rotated_nor_dropped(run: Run) -> None:
    for command in ("rotate", "drop"):
        refused = run("logins", command, "accounting")
        assert refused.exit_code == 1
        assert refused.stderr == "Error: there is no login accounting: see `pgteller logins list`\n"


def test_a_rotated_password_counts_for_new_sessions_and_open_ones_go_on(run: Run) -> None:
    before = create(run)
    with psycopg.connect(before, autocommit=True) as open_session:
        after = run("logins", "rotate", "accounting").stdout.strip()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(before)
        psycopg.connect(after).close()
        assert open_session.execute("select count(*) from bank.posting").fetchall() == [(0,)]


def test_a_dropped_login_is_refused_and_its_sessions_are_ended_whatever_role_they_took(
    run: Run, bank: Bank, app: Connection, provider: str
) -> None:
    app.execute("select bank.open_account('Ada', 'EUR')")
    url = create(run)
    give_admin(bank, "provider", "accounting")
    with psycopg.connect(url, autocommit=True) as plain, psycopg.connect(url, autocommit=True) as of_the_group:
        # Its rights are the group's from here on: taking the login away would leave them.
        of_the_group.execute("set role bank_app")
        for session in (plain, of_the_group):
            assert session.execute(CREDIT).fetchall() == [("success",)]
        dropped = run("logins", "drop", "accounting", DATABASE_OWNER_URL=provider)
        assert (dropped.exit_code, dropped.stderr) == (0, ""), dropped.output
        assert dropped.stdout == "accounting is dropped, and 2 of its sessions ended.\n"
        for session in (plain, of_the_group):
            with pytest.raises(psycopg.OperationalError):
                session.execute(CREDIT)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
    assert app.execute("select count(*) as postings from bank.posting").fetchall() == [{"postings": 2}]
    assert "accounting" not in run("logins", "list").stdout


def test_sessions_that_may_not_be_ended_are_named_for_they_go_on(
    run: Run, bank: Bank, app: Connection, provider: str
) -> None:
    app.execute("select bank.open_account('Ada', 'EUR')")
    url = create(run)
    give_admin(bank, "provider", "accounting")
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("revoke execute on function pg_terminate_backend from public")
    with psycopg.connect(url, autocommit=True) as session:
        session.execute("set role bank_app")
        dropped = run("logins", "drop", "accounting", DATABASE_OWNER_URL=provider)
        assert (dropped.exit_code, dropped.stdout) == (0, "accounting is dropped.\n")
        assert dropped.stderr.startswith("1 of its sessions are still open, and may go on calling until they end: ")
        assert f"processes {session.info.backend_pid};" in dropped.stderr
        with suppress(psycopg.Error):  # the first may look for the role that is gone
            session.execute(CREDIT)
        assert session.execute(CREDIT).fetchall() == [("success",)]


def test_the_login_of_the_service_is_dropped_only_by_force(run: Run, service_url: str) -> None:
    assert run("migrate", SERVICE_PASSWORD="of-the-service").exit_code == 0
    refused = run("logins", "drop", "pgteller_service")
    assert refused.exit_code == 1
    assert "the login of the service of every bank on this server" in refused.stderr
    psycopg.connect(service_url).close()
    assert run("logins", "drop", "pgteller_service", "--force").exit_code == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(service_url)


def test_what_a_login_was_granted_in_this_database_goes_with_it(run: Run, bank: Bank, provider: str) -> None:
    create(run)
    give_admin(bank, "provider", "accounting")
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute(f"alter database {bank.dbname} owner to provider".encode())
    with psycopg.connect(provider, autocommit=True) as owner:
        owner.execute("create schema shop; create table shop.customer (name text)")
        owner.execute("grant usage on schema shop to accounting; grant select on shop.customer to accounting")
        owner.execute("alter default privileges in schema shop grant select on tables to accounting")
        owner.execute(f"grant connect on database {bank.dbname} to accounting".encode())
    dropped = run("logins", "drop", "accounting", DATABASE_OWNER_URL=provider)
    assert dropped.exit_code == 0, dropped.output
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        assert superuser.execute("select from pg_roles where rolname = 'accounting'").fetchall() == []
        assert superuser.execute("select count(*) from shop.customer").fetchall() == [(0,)]
        superuser.execute(f"alter database {bank.dbname} owner to postgres; drop owned by provider".encode())


def test_a_login_that_owns_something_is_shut_out_and_the_remedy_that_is_named_mends_it(
    run: Run, bank: Bank, provider: str
) -> None:
    url = create(run)
    give_admin(bank, "provider", "accounting")
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("create schema authorization accounting")
        superuser.execute(f"alter database {bank.dbname} owner to provider".encode())
    refused = run("logins", "drop", "accounting", DATABASE_OWNER_URL=provider)
    assert refused.exit_code == 1
    [line] = refused.stderr.splitlines()
    assert "owner of schema accounting" in line
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        psycopg.connect(url)
    [listed] = [row for row in run("logins", "list").stdout.splitlines() if row.startswith("accounting")]
    assert "cannot log in: drop it, or create it again" in listed
    remedy = line.partition("this is denied: ")[2].rpartition("; then")[0]
    with psycopg.connect(provider, autocommit=True) as owner:
        owner.execute(remedy.encode())
    assert run("logins", "drop", "accounting", DATABASE_OWNER_URL=provider).exit_code == 0
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute(f"alter database {bank.dbname} owner to postgres; drop owned by provider".encode())


@pytest.mark.parametrize("command", ["create", "rotate"])
def test_a_login_that_was_dropped_halfway_can_log_in_again(run: Run, bank: Bank, command: str) -> None:
    create(run)
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("create schema authorization accounting")
    assert run("logins", "drop", "accounting").exit_code == 1
    again = run("logins", command, "accounting")
    assert again.exit_code == 0, again.output
    with psycopg.connect(again.stdout.strip()) as login:
        assert login.execute("select count(*) from bank.posting").fetchall() == [(0,)]


def test_a_login_that_has_lost_its_group_is_listed_and_made_again_with_what_is_asked_for_now(
    run: Run, bank: Bank, app: Connection
) -> None:
    """As where bank_app was dropped and made anew while the login stayed."""
    app.execute("select bank.open_account('Ada', 'EUR')")
    create(run)
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("revoke bank_app from accounting; alter role accounting reset all")
    [listed] = [row for row in run("logins", "list").stdout.splitlines() if row.startswith("accounting")]
    assert listed.split()[1] == "nothing"
    assert "may neither call nor read: drop it, or create it again" in listed
    refused = run("logins", "rotate", "accounting")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "`pgteller logins create accounting` makes it anew" in refused.stderr
    with psycopg.connect(create(run, "accounting"), autocommit=True) as login:
        assert login.execute(CREDIT).fetchall() == [("success",)]
        assert login.execute("show statement_timeout").fetchall() == [("5min",)]
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("alter role accounting nologin")
    with psycopg.connect(create(run, "accounting", "--read-only"), autocommit=True) as login:
        assert login.execute("select balance_minor from bank.balance(2)").fetchall() == [(100,)]
        with pytest.raises(DENIED):
            login.execute(CREDIT)


def test_a_new_password_of_an_expired_login_is_valid(run: Run, bank: Bank) -> None:
    create(run)
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("alter role accounting valid until '2020-01-01'")
    psycopg.connect(run("logins", "rotate", "accounting").stdout.strip()).close()


def test_the_list_says_who_may_what_since_when_and_who_may_too_much(run: Run, bank: Bank) -> None:
    create(run)
    create(run, "tally", "--read-only")
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("create role taken login in role bank_app")
        superuser.execute("grant update on bank.entry to taken; alter role tally valid until '2020-01-01'")
    with psycopg.connect(bank.app_url):
        lines = {line.split()[0]: line.split(maxsplit=4) for line in run("logins", "list").stdout.splitlines()}
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert lines["accounting"] == ["accounting", "call", today, "0"]
    assert lines["tally"] == ["tally", "read", today, "0", "its password has expired"]
    assert lines["taken"] == ["taken", "call", "-", "0", "may write to entry of schema bank"]
    assert lines["bank_app"][:3] == ["bank_app", "call", "-"]
    assert int(lines["bank_app"][3]) >= 1  # roles are the server's: services that other tests started log in as it too
    assert lines["postgres"][4] == "is a superuser"


def test_without_a_bank_there_are_no_logins_to_make(fresh_home: Path) -> None:
    settings = Settings(home=fresh_home)
    bank = LocalBank(settings)
    with bank.running(create=True):
        url = bank.server.conninfo("postgres")
        refused = run_command(("logins", "create", "accounting"), {"DATABASE_OWNER_URL": url})
    assert refused.stderr == "Error: there is no bank on this server yet: run `pgteller migrate`\n"


@pytest.mark.parametrize(
    ("owner_url", "found"),
    [
        ("postgresql://admin:secret@db.example/{}", "postgresql://tally:p%40ss@db.example/{}"),
        (
            "postgresql://admin:secret@db.example:5433/{}?sslmode=verify-full&options=-c%20x%3Dy",
            "postgresql://tally:p%40ss@db.example:5433/{}?sslmode=verify-full",
        ),
        ("postgresql://[::1]:5433/{}", "postgresql://tally:p%40ss@/{}?host=%3A%3A1&port=5433"),
        ("host=a,b port=1,2 dbname={} password=secret", "postgresql://tally:p%40ss@/{}?host=a%2Cb&port=1%2C2"),
        ("dbname={}", "postgresql://tally:p%40ss@/{}"),
        (
            "postgresql://db.example/{}?channel_binding=require&sslmode=verify-full&sslrootcert=system",
            "postgresql://tally:p%40ss@db.example/{}?sslmode=verify-full&sslrootcert=system&channel_binding=require",
        ),
    ],
)
def test_the_url_of_a_login_leads_where_the_owners_leads_without_what_is_the_owners(
    app: Connection, owner_url: str, found: str
) -> None:
    dbname = app.info.dbname
    url = url_of(app, owner_url.format(dbname), "tally", "p@ss")
    assert url == found.format(dbname)
    asked = {key: value for key, value in conninfo_to_dict(owner_url.format(dbname)).items() if key != "options"}
    assert conninfo_to_dict(url) == {**asked, "user": "tally", "password": "p@ss"}


def test_a_role_that_may_not_grant_bank_app_is_told_what_mends_that(run: Run, bank: Bank, provider: str) -> None:
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        if superuser.info.server_version >= 160_000:
            refused = run("logins", "create", "accounting", DATABASE_OWNER_URL=provider)
            assert refused.exit_code == 1
            [line] = refused.stderr.splitlines()
            superuser.execute(line.rpartition("mends that by: ")[2].encode())
        created = run("logins", "create", "accounting", DATABASE_OWNER_URL=provider)
        assert created.exit_code == 0, created.output
        psycopg.connect(created.stdout.strip()).close()
        superuser.execute("alter role provider nocreaterole")
        refused = run("logins", "create", "tally", DATABASE_OWNER_URL=provider)
        assert refused.stderr == (
            "Error: cannot make a login: provider may not create roles; "
            'a superuser mends that by: alter role "provider" createrole\n'
        )
        refused = run("logins", "rotate", "accounting", DATABASE_OWNER_URL=provider)
        assert refused.stderr.startswith("Error: provider may not alter accounting: connect as the role that made it")
        superuser.execute("alter role provider createrole")
        assert run("logins", "drop", "accounting", DATABASE_OWNER_URL=provider).exit_code == 0
        superuser.execute("revoke bank_app, bank_reader from provider cascade")


def test_a_login_that_another_role_made_is_neither_rotated_nor_dropped_and_the_remedy_is_named(
    run: Run, bank: Bank, provider: str
) -> None:
    url = create(run)
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        if superuser.info.server_version < 160_000:
            pytest.skip("before PostgreSQL 16 whoever may create roles may alter and drop all that are no superusers")
        for command in ("rotate", "drop"):
            refused = run("logins", command, "accounting", DATABASE_OWNER_URL=provider)
            assert (refused.exit_code, refused.stdout) == (1, "")
            assert refused.stderr.startswith(
                "Error: provider may not alter accounting: connect as the role that made it, or as a superuser"
            )
            psycopg.connect(url).close()
        superuser.execute("grant accounting to provider with admin option")
        dropped = run("logins", "drop", "accounting", DATABASE_OWNER_URL=provider)
        assert dropped.exit_code == 0, dropped.output


@pytest.fixture
def service_url(bank: Bank) -> Iterator[str]:
    """The URL of the service's login, which a test makes."""
    yield bank.server.conninfo(bank.dbname, "pgteller_service", "of-the-service")
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("drop role if exists pgteller_service")


def test_migrate_gives_the_login_of_the_service_its_timeouts_anew(run: Run, service_url: str) -> None:
    for request_timeout_seconds, statement_timeout in (("20", "18s"), ("40", "36s")):
        settings = {"SERVICE_PASSWORD": "of-the-service", "REQUEST_TIMEOUT_SECONDS": request_timeout_seconds}
        assert run("migrate", **settings).exit_code == 0
        with psycopg.connect(service_url) as service:
            assert service.execute("show statement_timeout").fetchall() == [(statement_timeout,)]


def test_migrate_makes_the_login_of_the_service_with_the_timeouts_of_its_settings(run: Run, service_url: str) -> None:
    settings = {"REQUEST_TIMEOUT_SECONDS": "20", "LOCK_TIMEOUT_MS": "70"}
    migrated = run("migrate", SERVICE_PASSWORD="of-the-service", **settings)
    assert migrated.exit_code == 0, migrated.output
    assert "of-the-service" not in migrated.output
    with psycopg.connect(service_url) as service:
        shown = [
            service.execute(f"show {name}".encode()).fetchall()[0][0]
            for name in ("statement_timeout", "lock_timeout", "default_transaction_isolation", "timezone")
        ]
    assert shown == ["18s", "70ms", "read committed", "UTC"]
    assert run("migrate", SERVICE_PASSWORD="another", **settings).exit_code == 0
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(service_url)


@pytest.mark.parametrize(
    "damage",
    [
        "alter role pgteller_service nologin",
        "alter role pgteller_service connection limit 0",
        "revoke bank_app from pgteller_service",
        "alter role pgteller_service noinherit valid until '2020-01-01'",
        "alter role pgteller_service reset all",
    ],
)
def test_migrate_makes_the_login_of_the_service_whole_whatever_became_of_it(
    run: Run, bank: Bank, service_url: str, damage: str
) -> None:
    assert run("migrate", SERVICE_PASSWORD="of-the-service").exit_code == 0
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute(damage.encode())
    assert run("migrate", SERVICE_PASSWORD="of-the-service").exit_code == 0
    status = run("status", DATABASE_URL=service_url)
    assert (status.exit_code, status.stderr) == (0, "")
    with psycopg.connect(service_url, autocommit=True) as service:
        assert service.execute("show statement_timeout").fetchall() == [("9s",)]
        service.execute("set role bank_app")


def test_migrate_does_not_call_it_well_when_the_login_of_the_service_may_not_connect(
    run: Run, bank: Bank, service_url: str
) -> None:
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute(f"revoke connect on database {bank.dbname} from public".encode())
        refused = run("migrate", SERVICE_PASSWORD="of-the-service")
        assert refused.exit_code == 1
        assert f"pgteller_service may not connect to database {bank.dbname}" in refused.stderr
        superuser.execute(refused.stderr.rpartition(" by: ")[2].encode())
        assert run("migrate", SERVICE_PASSWORD="of-the-service").exit_code == 0
        psycopg.connect(service_url).close()
        # A grant that the drop of the login takes back.
        assert run("logins", "drop", "pgteller_service", "--force").exit_code == 0


def test_a_login_that_may_not_call_is_told_what_mends_that(run: Run, bank: Bank, service_url: str) -> None:
    assert run("migrate", SERVICE_PASSWORD="of-the-service").exit_code == 0
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("revoke bank_app from pgteller_service")
    refused = run("status", DATABASE_URL=service_url)
    assert refused.exit_code == 1
    assert "is no member of bank_app: `SERVICE_PASSWORD=… pgteller migrate` mends that" in refused.stderr


def test_commands_that_take_long_are_not_ended_by_the_timeouts_of_the_services_login(
    run: Run, service_url: str
) -> None:
    run("migrate", SERVICE_PASSWORD="of-the-service")
    with connect(service_url, "bank_app") as connection:
        assert connection.execute("show statement_timeout").fetchall() == [{"statement_timeout": "0"}]


def test_status_warns_of_a_login_that_could_change_what_is_written_and_does_not_fail(
    run: Run, bank: Bank, service_url: str
) -> None:
    assert run("migrate", SERVICE_PASSWORD="of-the-service").exit_code == 0
    quiet = run("status", DATABASE_URL=service_url)
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    warned = run("status", DATABASE_URL=bank.owner_url)
    assert warned.exit_code == 0, warned.output
    assert "can do more than call the bank: it is a superuser." in warned.stderr
