"""Which migrations are applied is noted in schema bank, whatever else is in the database and however it is set up."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from service.embedded import EmbeddedPostgres
from service.migrate import migrate
from service.prerequisites import PrerequisiteError
from tests.cli.conftest import run_command
from tests.conftest import Bank
from tests.helpers import Row, open_account
from tests.http_server import wait_for
from tests.migrations.test_migrate import ENTRY_TIMES, MIGRATION_IDS, NewDatabase, connect, empty, new_database, post

__all__ = ["empty", "new_database"]

TABLES = ("_yoyo_log", "_yoyo_migration", "_yoyo_version")
PLACES = """
select schemaname, tablename, tableowner from pg_catalog.pg_tables where tablename like '%yoyo%' order by 1, 2
"""
IN_BANK = [{"schemaname": "bank", "tablename": name, "tableowner": "bank_owner"} for name in TABLES]


def places(url: str) -> list[Row]:
    with connect(url) as connection:
        return connection.execute(PLACES).fetchall()


def noted(url: str, schema: str = "bank") -> list[str]:
    with connect(url) as connection:
        table = sql.Identifier(schema, "_yoyo_migration")
        rows = connection.execute(sql.SQL("select migration_id from {} order by 1").format(table)).fetchall()
    return [row["migration_id"] for row in rows]


def move_to(bank: Bank, schema: str, owner: str = "postgres") -> None:
    """As releases before this one left the account."""
    with connect(bank.owner_url) as superuser:
        superuser.execute(f"create schema if not exists {schema}".encode())
        for name in TABLES:
            superuser.execute(f"alter table bank.{name} set schema {schema}".encode())
            superuser.execute(f"alter table {schema}.{name} owner to {owner}".encode())


@pytest.fixture
def login(server: EmbeddedPostgres) -> Iterator[Callable[[str, str], str]]:
    """Make a login, and return its name; it goes with what it owns in the databases that are left."""
    names: list[str] = []

    def create(name: str, options: str) -> str:
        names.append(name)
        with connect(server.conninfo("postgres")) as superuser:
            superuser.execute(f"create role {name} login password 'secret' {options}".encode())
        return name

    yield create
    for name in names:
        with connect(server.conninfo("postgres")) as superuser:
            databases = "select datname from pg_database where datallowconn and not datistemplate"
            for row in superuser.execute(databases).fetchall():
                with connect(server.conninfo(row["datname"])) as inside:
                    inside.execute(f"drop owned by {name} cascade".encode())
            superuser.execute(f"drop role {name}".encode())


# ---- where it is -------------------------------------------------------------------------------------------


def test_the_account_of_a_new_bank_is_in_its_schema_and_belongs_to_its_owner(empty: str) -> None:
    assert migrate(empty) == MIGRATION_IDS
    assert places(empty) == IN_BANK
    assert noted(empty) == MIGRATION_IDS


def test_nobody_but_the_owner_reads_or_writes_it(bank: Bank) -> None:
    for role in ("bank_app", "bank_reader"):
        with bank.connect(role) as connection:
            for name in TABLES:
                for statement in ("select from bank.{}", "delete from bank.{}"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(statement.format(name).encode())


@pytest.mark.parametrize("search_path", ["bank", "elsewhere, public", "", '"$user"'])
def test_the_search_path_of_the_database_does_not_matter(empty: str, search_path: str) -> None:
    with connect(empty) as superuser:
        superuser.execute("create schema elsewhere")
        database = sql.Identifier(superuser.info.dbname)
        assert migrate(empty) == MIGRATION_IDS
        superuser.execute(
            sql.SQL("alter database {} set search_path = {}").format(database, sql.SQL(search_path or "''"))
        )
    assert migrate(empty) == []
    assert places(empty) == IN_BANK
    assert post(empty) == 100


def test_a_login_may_be_named_as_the_schema_is(
    server: EmbeddedPostgres, new_database: NewDatabase, login: Callable[[str, str], str]
) -> None:
    """As POSTGRES_USER may be."""
    url = server.conninfo(new_database(), login("bank", "superuser"), "secret")
    assert migrate(url) == MIGRATION_IDS
    assert migrate(url) == []
    assert places(url) == IN_BANK


@pytest.mark.parametrize("search_path", ['"$user", public', "bank, public"])
def test_another_application_that_uses_yoyo_keeps_its_own_account(empty: str, search_path: str) -> None:
    with connect(empty) as superuser:
        superuser.execute("create table _yoyo_migration (migration_hash varchar primary key, migration_id varchar)")
        superuser.execute("insert into _yoyo_migration values ('a hash', '0001.customers')")
        database = sql.Identifier(superuser.info.dbname)
        superuser.execute(sql.SQL("alter database {} set search_path = {}").format(database, sql.SQL(search_path)))
    assert migrate(empty) == MIGRATION_IDS
    assert migrate(empty) == []
    assert noted(empty) == MIGRATION_IDS
    assert noted(empty, "public") == ["0001.customers"]


# ---- of releases before this one ---------------------------------------------------------------------------


@pytest.mark.parametrize("schema", ["public", '"My schema"'])
def test_the_account_that_an_earlier_release_kept_elsewhere_is_taken_over(bank: Bank, schema: str) -> None:
    move_to(bank, schema)
    with connect(bank.owner_url) as superuser:
        log = "select * from {}._yoyo_log order by id"
        before = superuser.execute(log.format(schema).encode()).fetchall()
        superuser.execute(f"create table {schema}.yoyo_lock (locked integer)".encode())
        assert migrate(bank.owner_url) == []
        assert superuser.execute(log.format("bank").encode()).fetchall() == before
    assert places(bank.owner_url) == IN_BANK
    assert noted(bank.owner_url) == MIGRATION_IDS


def test_what_another_application_has_noted_in_the_same_table_stays_there(bank: Bank) -> None:
    move_to(bank, "public")
    with connect(bank.owner_url) as superuser:
        superuser.execute("insert into public._yoyo_migration values ('a hash', '0001.customers', now())")
    assert migrate(bank.owner_url) == []
    assert noted(bank.owner_url) == MIGRATION_IDS
    assert noted(bank.owner_url, "public") == ["0001.customers"]


def test_a_login_that_may_not_take_the_account_over_is_told_what_mends_it(
    bank: Bank, login: Callable[[str, str], str]
) -> None:
    move_to(bank, "public")
    url = bank.server.conninfo(bank.dbname, login("upgrader", "in role bank_owner, bank_app"), "secret")
    with pytest.raises(
        PrerequisiteError, match=r"noted in \"public\"\._yoyo_migration.* postgres or a super"
    ) as raised:
        migrate(url)
    assert len(places(bank.owner_url)) == len(TABLES)
    with connect(bank.owner_url) as superuser:
        superuser.execute(str(raised.value).rpartition(" by: ")[2].encode())
    assert migrate(url) == []
    assert noted(url) == MIGRATION_IDS
    assert noted(bank.owner_url, "public") == []


def test_a_bank_without_its_account_says_so(bank: Bank) -> None:
    with bank.connect("bank_owner") as owner:
        owner.execute("drop table bank._yoyo_migration")
    with pytest.raises(PrerequisiteError, match="lost the table in which its migrations are noted"):
        migrate(bank.owner_url)


# ---- what others have planted ------------------------------------------------------------------------------

PLANTED = """
create function public.has_table_privilege(a text, b oid, c text) returns boolean language plpgsql as $$
begin
    raise exception 'planted';
end $$;
create function public.planted(a oid, b regnamespace) returns boolean language plpgsql as $$
begin
    raise exception 'planted';
end $$;
create operator public.= (leftarg = oid, rightarg = regnamespace, function = public.planted);
create function public.planted(a name, b text) returns boolean language plpgsql as $$
begin
    raise exception 'planted';
end $$;
create operator public.= (leftarg = name, rightarg = text, function = public.planted);
create function public.to_regrole(a unknown_text) returns regrole language plpgsql as $$
begin
    raise exception 'planted';
end $$;
create function public.pg_has_role(a oid, b oid, c text) returns boolean language plpgsql as $$
begin
    raise exception 'planted';
end $$;
"""


@pytest.fixture
def intruder(bank: Bank, login: Callable[[str, str], str]) -> str:
    """A caller of the bank who may create in public, as everybody might before PostgreSQL 15, and has done so."""
    name = login("intruder", "in role bank_app")
    with connect(bank.owner_url) as superuser:
        superuser.execute("grant create on schema public to public")
    with connect(bank.server.conninfo(bank.dbname, name, "secret")) as connection:
        connection.execute("create domain public.unknown_text as text")
        connection.execute(PLANTED.encode())
    return name


def test_functions_and_operators_that_somebody_planted_in_public_are_never_executed(bank: Bank, intruder: str) -> None:
    with connect(bank.owner_url) as superuser, pytest.raises(psycopg.errors.RaiseException, match="planted"):
        superuser.execute("select from pg_class where relnamespace = 'bank'::regnamespace")
    with bank.connect("bank_owner") as owner:
        owner.execute("update bank.installation set sql_digest = 'of an older version'")
    assert migrate(bank.owner_url) == []
    environment = {"DATABASE_OWNER_URL": bank.owner_url, "DATABASE_URL": bank.owner_url}
    for command in ("migrate", "status", "keys list", "logins list", "verify"):
        done = run_command(tuple(command.split()), environment)
        assert "planted" not in done.output
        assert done.exit_code == 0, done.output


def test_an_account_that_somebody_planted_is_not_touched(bank: Bank, intruder: str) -> None:
    move_to(bank, "kept")
    with connect(bank.server.conninfo(bank.dbname, intruder, "secret")) as connection:
        connection.execute("create table public._yoyo_migration (migration_hash text, migration_id text)")
        connection.execute("insert into public._yoyo_migration values ('a hash', '0001.ledger')")
        connection.execute(
            "create function public.trap() returns trigger language plpgsql as "
            "$$ begin raise exception 'planted'; end $$"
        )
        connection.execute("create trigger trap before delete on public._yoyo_migration execute function public.trap()")
    assert migrate(bank.owner_url) == []
    assert noted(bank.owner_url) == MIGRATION_IDS
    assert noted(bank.owner_url, "public") == ["0001.ledger"]


# ---- settings of the database ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        "statement_timeout = '100ms'",
        "lock_timeout = '100ms'",
        "idle_in_transaction_session_timeout = '100ms'",
        "idle_session_timeout = '100ms'",
        "transaction_timeout = '100ms'",
        "role = 'bank_owner'",
        "role = 'bank_reader'",
    ],
)
def test_what_applications_are_set_to_does_not_end_a_migration_that_waits(bank: Bank, setting: str) -> None:
    with (
        bank.connect(autocommit=False) as old,
        connect(bank.owner_url) as observer,
        ThreadPoolExecutor(1) as executor,
    ):
        if setting.startswith("transaction_timeout") and observer.info.server_version < 170_000:
            pytest.skip("transaction_timeout is of PostgreSQL 17 and later")
        with bank.connect() as app:
            account_id = open_account(app)
        observer.execute("delete from bank._yoyo_migration where migration_id = %s", [ENTRY_TIMES])
        observer.execute(f"alter database {bank.dbname} set {setting}".encode())
        old.execute("select bank.credit(%s, 1)", [account_id])  # whoever makes an index waits for it
        migrating = executor.submit(migrate, bank.owner_url)
        waits = """
            select from pg_stat_activity
            where %s = any(pg_blocking_pids(pid)) and query ~ 'concurrently' and now() - query_start > '300ms'
        """
        wait_for(lambda: observer.execute(waits, [old.info.backend_pid]).rowcount == 1 or migrating.done(), "it waits")
        assert not migrating.done()
        old.commit()
        assert migrating.result(20) == [ENTRY_TIMES]
    assert migrate(bank.owner_url) == []
