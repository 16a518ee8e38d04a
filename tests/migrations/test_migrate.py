"""How an installation gets into a database: again, at once, after a crash, by a role that is no superuser."""

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from yoyo import default_migration_table, read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import parse_uri

from service.embedded import EmbeddedPostgres
from service.installation import MIGRATIONS, ROOT, last_migration_id, sql_digest
from service.migrate import migrate
from tests.conftest import Bank, Connection
from tests.helpers import violations

MIGRATION_IDS = sorted(
    path.stem for path in MIGRATIONS.glob("[0-9]*") if path.is_file() and not path.name.endswith(".rollback.sql")
)
ROLES = ("bank_owner", "bank_app", "bank_reader")
MIGRATE = "import sys; from service.migrate import migrate; print(*migrate(sys.argv[1]))"

# Everything that a migration or sql/ makes, one row each: kind, name, definition.
CATALOG = """
select 'relation' as kind, c.relname::text as name,
    concat_ws(' ', c.relkind, c.relowner::regrole, c.relacl, c.reloptions, obj_description(c.oid)) as definition
from pg_class as c where c.relnamespace = 'bank'::regnamespace
union all
select 'column', a.attrelid::regclass || '.' || a.attname,
    concat_ws(' ', row_number() over (partition by a.attrelid order by a.attnum),
        format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
        pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum))
from pg_attribute as a
inner join pg_class as c on a.attrelid = c.oid
left join pg_attrdef as d on a.attrelid = d.adrelid and a.attnum = d.adnum
where c.relnamespace = 'bank'::regnamespace and a.attnum > 0 and not a.attisdropped
union all
select 'index', i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
from pg_index as i inner join pg_class as c on i.indexrelid = c.oid where c.relnamespace = 'bank'::regnamespace
union all
select 'constraint', k.conrelid::regclass || '.' || k.conname, pg_get_constraintdef(k.oid)
from pg_constraint as k where k.connamespace = 'bank'::regnamespace
union all
select 'view', v.viewname::text, v.definition from pg_views as v where v.schemaname = 'bank'
union all
select 'function', p.oid::regprocedure::text,
    concat_ws(' ', pg_get_functiondef(p.oid), p.proowner::regrole, p.proacl, obj_description(p.oid))
from pg_proc as p where p.pronamespace = 'bank'::regnamespace
union all
select 'enum', e.enumtypid::regtype || '.' || e.enumlabel, e.enumsortorder::text from pg_enum as e
union all
select 'schema', n.nspname::text, concat_ws(' ', n.nspowner::regrole, n.nspacl)
from pg_namespace as n where n.nspname = 'bank'
union all
select 'default rights', concat_ws(' ', d.defaclrole::regrole, d.defaclnamespace::regnamespace, d.defaclobjtype),
    d.defaclacl::text
from pg_default_acl as d
union all
select 'currency', c.currency, c::text from bank.currency as c
union all
select 'error', e.code, e::text from bank.error as e
union all
select 'ledger', l.ledger_id::text, l.name from bank.ledger as l
union all
select 'installation', i.migration_id, i.sql_digest from bank.installation as i
"""

_database_numbers = itertools.count(1)
NewDatabase = Callable[..., str]


def connect(database_url: str, role: str | None = None) -> closing[Connection]:
    connection = psycopg.connect(database_url, autocommit=True, row_factory=dict_row)
    if role is not None:
        connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    return closing(connection)


def catalog(database_url: str) -> dict[tuple[str, str], str]:
    with connect(database_url) as connection:
        rows = connection.execute(CATALOG).fetchall()
    found = {(row["kind"], row["name"]): row["definition"] for row in rows}
    assert len(found) == len(rows)
    return found


def roll_back_to_before(database_url: str, migration_id: str) -> None:
    """Roll back the migration and all that came after it, newest first."""
    first = MIGRATION_IDS[0]
    uri = parse_uri(database_url.replace("postgresql://", "postgresql+psycopg://"))
    uri.args["schema"] = "bank"
    with PostgresqlPsycopgBackend(uri, default_migration_table) as backend:
        migrations = read_migrations(str(MIGRATIONS)).filter(lambda each: each.id >= migration_id and each.id != first)
        backend.rollback_migrations(backend.to_rollback(migrations))
    if migration_id == first:  # yoyo's account goes with the schema
        with connect(database_url) as connection:
            connection.execute((MIGRATIONS / f"{first}.rollback.sql").read_bytes())


def post(database_url: str) -> int:
    """Open an account as bank_app, credit it once, and return its balance."""
    with connect(database_url, "bank_app") as connection:
        row = connection.execute("select account_id from bank.open_account('Ada', 'EUR')").fetchone()
        assert row is not None
        posted = connection.execute("select * from bank.credit(%s, 100)", [row["account_id"]]).fetchone()
        assert posted is not None
        assert violations(connection) == []
    return int(posted["credit_balance_after_minor"])


def databases_of(server: EmbeddedPostgres) -> Iterator[NewDatabase]:
    names: list[str] = []

    def new_database(owner: str = "postgres") -> str:
        names.append(f"migrate_{next(_database_numbers)}")
        with connect(server.conninfo("postgres")) as connection:
            connection.execute(f"create database {names[-1]} owner {owner}".encode())
        return names[-1]

    yield new_database
    with connect(server.conninfo("postgres")) as connection:
        for name in names:
            connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
def new_database(server: EmbeddedPostgres) -> Iterator[NewDatabase]:
    """Empty databases on the server of all tests, where the roles may be there already."""
    yield from databases_of(server)


@pytest.fixture
def empty(server: EmbeddedPostgres, new_database: NewDatabase) -> str:
    """The URL of an empty database."""
    return server.conninfo(new_database())


@pytest.fixture(scope="module")
def another_server(server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A server of this module's own: roles belong to a server, and other tests need theirs."""
    with tempfile.TemporaryDirectory(prefix="pgteller-test-", dir=server.directory.parent) as directory:
        Path(directory).chmod(0o755)
        another = EmbeddedPostgres(Path(directory), pgbin=server.binaries)
        another.start()
        try:
            yield another
        finally:
            another.destroy()


@pytest.fixture
def server_without_roles(another_server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A server on which no bank was ever installed."""
    yield another_server
    with connect(another_server.conninfo("postgres")) as connection:
        for role in (*ROLES, "provider"):
            connection.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(role)))


@pytest.fixture
def first_database(server_without_roles: EmbeddedPostgres) -> Iterator[NewDatabase]:
    """Empty databases on a server on which no bank was ever installed."""
    yield from databases_of(server_without_roles)


@pytest.mark.parametrize("migration_id", MIGRATION_IDS)
def test_a_migration_rolled_back_and_applied_again_leaves_the_same_schema(bank: Bank, migration_id: str) -> None:
    before = catalog(bank.owner_url)
    roll_back_to_before(bank.owner_url, migration_id)
    # What running functions do not see goes before what changes them.
    assert sorted(migrate(bank.owner_url)) == [each for each in MIGRATION_IDS if each >= migration_id]
    assert catalog(bank.owner_url) == before
    assert post(bank.owner_url) == 100


def test_rolling_back_the_first_migration_leaves_no_object_behind(empty: str) -> None:
    def objects() -> list[dict[str, Any]]:
        with connect(empty) as connection:
            return connection.execute(
                """
                select 'relation' as kind, c.oid::regclass::text as name
                from pg_class as c inner join pg_namespace as n on c.relnamespace = n.oid
                where n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'
                    and c.relname not like '%yoyo%'
                union all
                select 'schema', n.nspname from pg_namespace as n where n.nspname not like 'pg\\_%'
                union all
                select 'function', p.oid::regprocedure::text from pg_proc as p where p.oid >= 16384
                order by 1, 2
                """
            ).fetchall()

    before = objects()
    migrate(empty)
    assert objects() != before
    roll_back_to_before(empty, MIGRATION_IDS[0])
    assert objects() == before


def test_a_bank_that_has_accounts_cannot_be_rolled_back(bank: Bank) -> None:
    assert post(bank.owner_url) == 100
    before = catalog(bank.owner_url)
    with pytest.raises(psycopg.errors.RaiseException, match="stripes have entries"):
        roll_back_to_before(bank.owner_url, MIGRATION_IDS[0])
    # What came after the stripes could be taken back, and is put back.
    assert sorted(migrate(bank.owner_url)) == [each for each in MIGRATION_IDS if each > "0003.stripes"]
    assert catalog(bank.owner_url) == before
    assert post(bank.owner_url) == 100


def test_a_second_migrate_finds_nothing_pending_and_changes_nothing(empty: str) -> None:
    assert migrate(empty) == MIGRATION_IDS
    assert post(empty) == 100
    before = catalog(empty)
    assert migrate(empty) == []
    assert catalog(empty) == before
    with connect(empty, "bank_app") as connection:
        assert connection.execute("select balance_minor from bank.balance(2)").fetchall() == [{"balance_minor": 100}]
        assert violations(connection) == []


def test_an_install_notes_what_it_installed(empty: str) -> None:
    migrate(empty)
    with connect(empty, "bank_app") as connection:
        (health,) = connection.execute("select migration_id, sql_digest from bank.health()").fetchall()
    assert health == {"migration_id": last_migration_id(), "sql_digest": sql_digest()}
    assert last_migration_id() == MIGRATION_IDS[-1]


def test_three_processes_that_migrate_an_empty_database_at_once_all_succeed(empty: str) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, empty], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    applied = [process.communicate(timeout=60)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(applied) == [[], [], MIGRATION_IDS]
    assert post(empty) == 100


def test_a_lock_row_that_a_crash_of_yoyo_left_behind_does_not_block(empty: str) -> None:
    migrate(empty)
    with connect(empty) as connection:
        connection.execute("create table yoyo_lock (locked int primary key default 1, ctime timestamp, pid int)")
        connection.execute("insert into yoyo_lock (locked, ctime, pid) values (1, now(), 1)")
        connection.execute("update bank.installation set sql_digest = 'of an older version'")
        assert migrate(empty) == []


@pytest.mark.parametrize(
    "damage",
    [
        "drop function bank.health()",
        "drop view bank.posting cascade",
        "create function bank._retired(integer) returns integer language sql return 1",
        "grant all on all tables in schema bank to bank_app",
        "grant execute on function bank._post_one to public",
        "delete from bank.error where code = 'account_not_found'",
        "insert into bank.error select 'retired', 'TLOLD', 400, 'malformed', '', '', ''",
        """
        create or replace function bank.require_success(posting bank.posting) returns bank.posting language sql as
        'select posting'
        """,
    ],
    ids=lambda damage: " ".join(damage.split()[:5]),
)
def test_an_installation_of_an_older_sql_folder_is_brought_to_this_version(bank: Bank, damage: str) -> None:
    before = catalog(bank.owner_url)
    with bank.connect("bank_owner") as owner:
        owner.execute(damage.encode())
        owner.execute("update bank.installation set sql_digest = 'of an older version'")
    assert catalog(bank.owner_url) != before
    assert migrate(bank.owner_url) == []
    assert catalog(bank.owner_url) == before
    assert post(bank.owner_url) == 100


def test_an_install_that_fails_while_loading_sql_leaves_the_old_functions_and_can_be_repeated(bank: Bank) -> None:
    before = catalog(bank.owner_url)
    with bank.connect("postgres") as superuser:
        # `create or replace view` refuses to rename a column.
        superuser.execute("alter view bank.account_balance rename column currency to currency_code")
        superuser.execute("update bank.installation set sql_digest = 'of an older version'")
        damaged = catalog(bank.owner_url)
        with pytest.raises(psycopg.Error) as raised:
            migrate(bank.owner_url)
        assert any("account_balance.sql" in note for note in raised.value.__notes__)
        assert catalog(bank.owner_url) == damaged
        superuser.execute("alter view bank.account_balance rename column currency_code to currency")
    assert migrate(bank.owner_url) == []
    assert catalog(bank.owner_url) == before


def test_what_depends_on_a_function_that_changes_is_named(bank: Bank) -> None:
    with bank.connect("bank_owner") as owner:
        owner.execute("drop function bank.read_only_reason()")
        owner.execute(
            "create function bank.read_only_reason() returns table (earlier text) language sql as 'select null'"
        )
        owner.execute("grant execute on function bank.read_only_reason to bank_app")
        owner.execute("update bank.installation set sql_digest = 'of an older version'")
    with bank.connect() as app:
        app.execute("create temporary view mine as select * from bank.read_only_reason()")
        with pytest.raises(psycopg.errors.DependentObjectsStillExist) as raised:
            migrate(bank.owner_url)
        (note,) = raised.value.__notes__
        assert "read_only_reason.sql" in note
        assert "view pg_temp" in note
        assert "mine" in note
        app.execute("drop view mine")
    assert migrate(bank.owner_url) == []


def test_what_is_no_function_of_ours_does_not_stop_the_loading_of_those(bank: Bank) -> None:
    with bank.connect("bank_owner") as owner:
        owner.execute("create procedure bank.their_procedure() language sql as 'select 1'")
        owner.execute("create aggregate bank.their_sum (integer) (sfunc = int4pl, stype = integer)")
        owner.execute("create type bank.their_range as range (subtype = integer)")
        owner.execute("update bank.installation set sql_digest = 'of an older version'")
        assert migrate(bank.owner_url) == []
        owner.execute("call bank.their_procedure()")
        owner.execute("select bank.their_sum(n) from (values (1)) as v (n), bank.their_range(1, 2)")


ENTRY_TIMES = next(migration_id for migration_id in MIGRATION_IDS if migration_id.endswith(".entry_times"))
UNMARK = "delete from bank._yoyo_migration where migration_id = %s"


def test_an_index_that_an_interrupted_migration_left_invalid_is_made_anew(bank: Bank) -> None:
    before = catalog(bank.owner_url)
    validity = "from pg_index where indexrelid = 'bank.entry_created_at'::regclass"
    with bank.connect("postgres") as superuser:
        superuser.execute(UNMARK, [ENTRY_TIMES])
        superuser.execute(f"update pg_index set indisvalid = false where indexrelid in (select indexrelid {validity})")
        assert migrate(bank.owner_url) == [ENTRY_TIMES]
        assert superuser.execute(f"select indisvalid {validity}").fetchall() == [{"indisvalid": True}]
    assert catalog(bank.owner_url) == before
    assert post(bank.owner_url) == 100


def test_the_bank_posts_while_an_index_waits_for_an_old_transaction(bank: Bank) -> None:
    with (
        bank.connect() as app,
        bank.connect(autocommit=False) as old,
        bank.connect("postgres") as observer,
        ThreadPoolExecutor(1) as executor,
    ):
        for _ in range(3):
            app.execute("select bank.open_account('Ada', 'EUR', 1000)")
        observer.execute(UNMARK, [ENTRY_TIMES])
        old.execute("select bank.transfer(2, 3, 1)")
        migrating = executor.submit(migrate, bank.owner_url)
        deadline = time.monotonic() + 10
        waiting: list[dict[str, Any]] = []
        while not waiting and not migrating.done() and time.monotonic() < deadline:
            waiting = observer.execute(
                "select query from pg_stat_activity where %s = any(pg_blocking_pids(pid))", [old.info.backend_pid]
            ).fetchall()
            time.sleep(0.005)
        assert "index concurrently" in waiting[0]["query"]
        posted = app.execute("select transaction_status from bank.transfer(4, 1, 1)").fetchall()
        assert posted == [{"transaction_status": "success"}]
        old.commit()
        assert migrating.result(20) == [ENTRY_TIMES]


def test_a_role_that_owns_the_database_and_may_create_roles_installs_without_being_superuser(
    server_without_roles: EmbeddedPostgres, first_database: NewDatabase
) -> None:
    with connect(server_without_roles.conninfo("postgres")) as superuser:
        superuser.execute("create role provider login createrole password 'secret'")
    provider_url = server_without_roles.conninfo(first_database("provider"), "provider", "secret")
    assert migrate(provider_url) == MIGRATION_IDS
    assert post(provider_url) == 100
    before = catalog(provider_url)
    assert migrate(provider_url) == []
    assert catalog(provider_url) == before
    assert post(provider_url) == 100


def test_a_role_that_is_no_superuser_installs_into_its_second_database_too(
    server_without_roles: EmbeddedPostgres, first_database: NewDatabase
) -> None:
    with connect(server_without_roles.conninfo("postgres")) as superuser:
        superuser.execute("create role provider login createrole password 'secret'")
    for _ in range(2):
        provider_url = server_without_roles.conninfo(first_database("provider"), "provider", "secret")
        assert migrate(provider_url) == MIGRATION_IDS
        assert post(provider_url) == 100


def test_a_role_that_is_no_superuser_can_roll_back_what_it_installed(
    server_without_roles: EmbeddedPostgres, first_database: NewDatabase
) -> None:
    with connect(server_without_roles.conninfo("postgres")) as superuser:
        superuser.execute("create role provider login createrole password 'secret'")
    provider_url = server_without_roles.conninfo(first_database("provider"), "provider", "secret")
    migrate(provider_url)
    before = catalog(provider_url)
    roll_back_to_before(provider_url, MIGRATION_IDS[0])
    assert migrate(provider_url) == MIGRATION_IDS
    assert catalog(provider_url) == before


def test_installs_into_two_databases_of_one_server_do_not_disturb_each_other(
    server: EmbeddedPostgres, new_database: NewDatabase
) -> None:
    first, second = (server.conninfo(new_database()) for _ in range(2))
    assert migrate(first) == MIGRATION_IDS
    assert post(first) == 100
    before = catalog(first)
    assert migrate(second) == MIGRATION_IDS
    assert catalog(first) == catalog(second) == before
    roll_back_to_before(second, MIGRATION_IDS[0])
    assert catalog(first) == before
    assert post(first) == 100
    assert migrate(second) == MIGRATION_IDS
    with connect(second, "bank_reader") as connection:
        assert connection.execute("select * from bank.posting").fetchall() == []


def test_first_installs_into_two_databases_of_one_server_at_once_both_succeed(
    server_without_roles: EmbeddedPostgres, first_database: NewDatabase
) -> None:
    """The other install is one that has made its roles and has not committed yet."""
    url = server_without_roles.conninfo(first_database())
    with (
        psycopg.connect(server_without_roles.conninfo("postgres")) as other,
        ThreadPoolExecutor(1) as executor,
        connect(server_without_roles.conninfo("postgres")) as observer,
    ):
        for role in ROLES:
            other.execute(sql.SQL("create role {} nologin").format(sql.Identifier(role)))
        migrating = executor.submit(migrate, url)
        deadline = time.monotonic() + 10
        waiters: list[dict[str, Any]] = []
        while not waiters and not migrating.done() and time.monotonic() < deadline:
            waiters = observer.execute(
                "select pid from pg_stat_activity where %s = any(pg_blocking_pids(pid))", [other.info.backend_pid]
            ).fetchall()
            time.sleep(0.005)
        other.commit()
        assert waiters
        assert migrating.result(10) == MIGRATION_IDS
    assert post(url) == 100
