"""migrate beside a bank in use: it changes nothing where nothing changed, waits politely, and may be killed."""

import shutil
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service import migrate as migrate_module
from service import migration_lock
from service.installation import MIGRATIONS, Installed, last_migration_id, sql_digest
from service.migrate import migrate
from service.migration_lock import MigrationError, installation_lock
from service.owner import installed_version
from service.watch import Watch
from tests.conftest import Bank, Connection
from tests.helpers import Row, call, open_account, violations
from tests.http_server import wait_for
from tests.migrations.releases import NEXT_MIGRATIONS, next_release, present, run, start
from tests.migrations.test_migrate import connect, empty, new_database

__all__ = ["empty", "new_database"]

pytestmark = pytest.mark.timeout(120)
"""Who waits for a lock without a bound fails its test soon."""

WRITTEN = """
select 'function' as kind, oid::text as id, xmin::text from pg_proc where pronamespace = 'bank'::regnamespace
union all
select 'relation', oid::text, xmin::text from pg_class
where relnamespace in ('bank'::regnamespace, 'public'::regnamespace)
union all
select 'view', ev_class::text, r.xmin::text from pg_rewrite as r
inner join pg_class as c on r.ev_class = c.oid and c.relnamespace = 'bank'::regnamespace
union all
select 'comment', objoid::text || '.' || objsubid, xmin::text from pg_description where objoid >= 16384
union all
select 'installation', '', xmin::text from bank.installation
union all
select 'version', installation_number::text, xmin::text from bank.installed_version
union all
select 'error', code, xmin::text from bank.error
union all
select 'migration', migration_id, xmin::text from bank._yoyo_migration
order by 1, 2
"""


def written(connection: Connection) -> list[Row]:
    return connection.execute(WRITTEN).fetchall()


def is_waiting_for(observer: Connection, blocker: psycopg.Connection[Any]) -> bool:
    query = "select from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
    return observer.execute(query, [blocker.info.backend_pid]).rowcount > 0


def post(bank: Bank) -> None:
    """A bank that works posts within the patience of a service, and has no violations."""
    with bank.connect() as app:
        app.execute("set statement_timeout = '10s'")
        open_account(app, 100)
        assert violations(app) == []


# ---- nothing changed ---------------------------------------------------------------------------------------


def test_where_nothing_changed_nothing_is_written_and_no_lock_is_taken_but_its_own(bank: Bank) -> None:
    with (
        connect(bank.owner_url) as observer,
        bank.connect("bank_owner", autocommit=False) as reader,
        ThreadPoolExecutor(1) as executor,
    ):
        before = written(observer)
        transactions = "select pg_current_xact_id()::text::bigint as xid"
        (first,) = observer.execute(transactions).fetchall()
        # Readers of all tables, views and functions' sources: whoever wants more would wait for them.
        reader.execute(
            "do $$ declare r record; begin for r in select oid::regclass as name from pg_class "
            "where relnamespace = 'bank'::regnamespace and relkind in ('r', 'v') "
            "loop execute format('lock table %s in access share mode', r.name); end loop; end $$"
        )
        assert executor.submit(migrate, bank.owner_url).result(20) == []
        assert written(observer) == before
        (last,) = observer.execute(transactions).fetchall()
    assert last["xid"] == first["xid"] + 1


def test_views_whose_text_is_the_same_are_not_replaced(bank: Bank) -> None:
    views = "select c.relname, r.xmin::text from pg_rewrite as r inner join pg_class as c on r.ev_class = c.oid"
    with bank.connect("bank_owner") as owner, bank.connect("bank_reader", autocommit=False) as reader:
        reader.execute("select from bank.posting, bank.account_detail, bank.statement_line limit 1")
        before = owner.execute(views.encode()).fetchall()
        owner.execute("update bank.installation set sql_digest = 'another'")
        assert migrate(bank.owner_url) == []  # while somebody is idle who has read them
        assert owner.execute(views.encode()).fetchall() == before
        assert owner.execute("select sql_digest from bank.installation").fetchall() == [{"sql_digest": sql_digest()}]


# ---- the history of versions -------------------------------------------------------------------------------


def digests(owner: Connection) -> list[str]:
    rows = owner.execute("select sql_digest from bank.installed_version order by installation_number").fetchall()
    return [row["sql_digest"] for row in rows]


def test_the_release_that_was_installed_last_is_the_one_that_is_told(bank: Bank) -> None:
    """Not the one with the highest number: a bank may go back."""
    with bank.connect("bank_owner") as owner, bank.connect() as app:
        for release in ("7.7.7", "10.0.0", "9.0.0"):
            owner.execute(
                "insert into bank.installed_version (sql_digest, migration_id, release) values (%s, %s, %s)",
                [f"of {release}", last_migration_id(), release],
            )
            assert app.execute("select release from bank.health()").fetchall() == [{"release": release}]
        [health] = app.execute("select compatible_digests from bank.health()").fetchall()
        assert set(health["compatible_digests"]) == {sql_digest(), "of 7.7.7", "of 10.0.0", "of 9.0.0"}


def test_a_version_that_is_installed_again_strikes_out_those_that_came_after_it(bank: Bank) -> None:
    with bank.connect("bank_owner") as owner:
        for digest in ("later", "later still"):
            owner.execute("select bank._install(%s, %s, '{}', '7.7.7', null)", [last_migration_id(), digest])
        assert digests(owner) == [sql_digest(), "later", "later still"]
        assert migrate(bank.owner_url) == []
        assert digests(owner) == [sql_digest()]


def test_a_version_of_other_functions_alone_leaves_earlier_ones_in_the_history(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = sql_digest()
    monkeypatch.setattr("service.migrate.sql_digest", lambda: "later")
    assert migrate(bank.owner_url) == []
    with bank.connect("bank_owner") as owner:
        assert digests(owner) == [mine, "later"]


def test_a_migration_that_only_adds_leaves_earlier_versions_in_the_history(bank: Bank, tmp_path: Path) -> None:
    migrated = run(next_release(tmp_path), "migrate", DATABASE_OWNER_URL=bank.owner_url, PATH="/usr/bin")
    assert migrated.returncode == 0, migrated.stderr
    with bank.connect("bank_owner") as owner:
        assert digests(owner)[:-1] == [sql_digest()]


def test_a_migration_that_breaks_running_services_strikes_out_earlier_versions(bank: Bank, tmp_path: Path) -> None:
    release = next_release(tmp_path)
    migration = release / "migrations" / "9002.reference.sql"
    migration.write_text("-- breaks: running services\n" + migration.read_text())
    migrated = run(release, "migrate", DATABASE_OWNER_URL=bank.owner_url, PATH="/usr/bin")
    assert migrated.returncode == 0, migrated.stderr
    with bank.connect("bank_owner") as owner:
        assert len(digests(owner)) == 1
        assert digests(owner) != [sql_digest()]
    with pytest.raises(MigrationError, match="too old for the database"):
        migrate(bank.owner_url)


MORE = {
    "9001.index": """
-- transactional: false
-- depends: 0010.breaks
set role bank_owner;
drop index concurrently if exists bank.entry_of_transaction;
create index concurrently entry_of_transaction on bank.entry (ledger_id, transaction_id);
""",
    "9002.nickname": """
-- depends: 0010.breaks
set local role bank_owner;
alter table bank.account add column nickname text;
""",
    "9003.nickname_index": """
-- transactional: false
-- depends: 9002.nickname
set role bank_owner;
drop index concurrently if exists bank.account_nickname;
create index concurrently account_nickname on bank.account (ledger_id, nickname);
""",
    "9004.title": """
-- depends: 9003.nickname_index
set local role bank_owner;
alter table bank.account add column title text;
""",
}
BREAKS = "-- breaks: running services\n"


def release_with(directory: Path, *migration_ids: str, breaking: str | None = None, functions: str = "") -> Path:
    """A release with some of MORE, and the same functions or others."""
    directory.mkdir()
    present(directory)
    for migration_id in migration_ids:
        text = BREAKS * (migration_id == breaking) + MORE[migration_id].lstrip()
        (directory / "migrations" / f"{migration_id}.sql").write_text(text)
    with (directory / "sql" / "api" / "health.sql").open("a") as file:
        file.write(functions)
    return directory


def migrated(release: Path, bank: Bank) -> str:
    """Migrate by the release, and return what it says."""
    done = run(release, "migrate", DATABASE_OWNER_URL=bank.owner_url, PATH="/usr/bin")
    assert done.returncode == 0, done.stderr
    return done.stderr


def state(bank: Bank) -> Installed:
    installed = installed_version(bank.owner_url)
    assert installed is not None
    return installed


def test_a_version_with_a_later_migration_and_the_same_functions_lets_services_go_on(
    bank: Bank, tmp_path: Path
) -> None:
    assert state(bank).is_newest
    migrated(release_with(tmp_path / "next", "9002.nickname"), bank)
    assert (state(bank).migration_id, state(bank).sql_digest) == ("9002.nickname", sql_digest())
    assert (state(bank).is_newest, state(bank).is_newer, state(bank).fault) == (False, True, None)
    assert migrate(bank.owner_url) == []
    assert state(bank).migration_id == "9002.nickname"


def test_a_version_with_a_migration_that_is_missing_does_not_work_though_its_functions_are_there(bank: Bank) -> None:
    with bank.connect("bank_owner") as owner:
        owner.execute("update bank.installation set migration_id = '0008.entry_times'")
        owner.execute("update bank.installed_version set migration_id = '0008.entry_times'")
    assert state(bank).fault == (
        f"its last migration is 0008.entry_times, this version needs {last_migration_id()}: run `pgteller migrate`"
    )


def test_three_versions_with_the_same_functions_migrate_in_any_order_and_the_last_migration_stays(
    bank: Bank, tmp_path: Path
) -> None:
    first = release_with(tmp_path / "first", "9001.index")
    second = release_with(tmp_path / "second", "9001.index", "9002.nickname")
    migrated(second, bank)
    for release in (first, present(tmp_path / "present"), second, first):
        migrated(release, bank)
        assert state(bank).migration_id == "9002.nickname"
        assert run(release, "status", DATABASE_URL=bank.owner_url, PATH="/usr/bin").returncode == 0
    post(bank)


@pytest.mark.parametrize("functions", ["", "-- changed\n"], ids=["same functions", "other functions"])
def test_a_newer_migrate_that_was_interrupted_after_its_additions_leaves_this_version_as_it_is(
    bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str], functions: str
) -> None:
    newer = release_with(tmp_path / "next", "9001.index", "9002.nickname", functions=functions)
    with bank.connect("bank_owner", autocommit=False) as reader, connect(bank.owner_url) as observer:
        reader.execute("select from bank.account")
        process = start(newer, "migrate", DATABASE_OWNER_URL=bank.owner_url, PATH="/usr/bin")
        try:
            applied = "select from bank._yoyo_migration where migration_id = '9001.index'"
            wait_for(lambda: observer.execute(applied).rowcount == 1, "the index is made")
        finally:
            process.kill()
            process.communicate()
    assert state(bank).is_newest
    assert migrate(bank.owner_url) == []
    assert "A newer version has begun to migrate, with 9001.index" in capsys.readouterr().err
    with bank.connect("bank_owner") as owner:
        owner.execute("update bank.installation set sql_digest = 'of a version before'")
        assert migrate(bank.owner_url) == []  # whoever goes back may do so, too
    assert state(bank).is_newest
    post(bank)
    migrated(newer, bank)
    assert (state(bank).migration_id, state(bank).is_newer) == ("9002.nickname", True)


@pytest.mark.parametrize("breaking", ["9001.index", "9002.nickname", "9004.title"])
@pytest.mark.parametrize("functions", ["", "-- changed\n"], ids=["same functions", "other functions"])
def test_a_breaking_migration_is_not_forgotten_whatever_comes_between_it_and_the_functions(
    bank: Bank, tmp_path: Path, breaking: str, functions: str
) -> None:
    migrated(release_with(tmp_path / "next", *MORE, breaking=breaking, functions=functions), bank)
    assert state(bank).breaking_migration_id == breaking
    assert not state(bank).is_newer
    assert "too old for the database" in (state(bank).fault or "")
    with bank.connect("bank_owner") as owner:
        assert len(digests(owner)) == 1
    with pytest.raises(MigrationError, match="too old for the database"):
        migrate(bank.owner_url)


def test_a_breaking_migration_stops_services_before_its_functions_come(bank: Bank, tmp_path: Path) -> None:
    newer = release_with(tmp_path / "next", *MORE, breaking="9002.nickname")
    broken = (newer / "migrations" / "9004.title.sql").read_text()
    (newer / "migrations" / "9004.title.sql").write_text(broken + "select 1 / 0;\n")
    failed = run(newer, "migrate", DATABASE_OWNER_URL=bank.owner_url, PATH="/usr/bin")
    assert "9004.title" in failed.stderr
    assert not state(bank).is_newest
    assert "which has 9002.nickname, and no functions for it yet" in (state(bank).fault or "")
    with pytest.raises(MigrationError, match="too old for the database, which has 9002"):
        migrate(bank.owner_url)


# ---- waiting -----------------------------------------------------------------------------------------------


def test_whom_it_waits_for_is_said_and_in_the_end_it_gives_up_and_has_done_nothing(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(migration_lock, "REPORT_FIRST_SECONDS", 0.1)
    monkeypatch.setattr(migration_lock, "WAIT_SECONDS_MAX", 2.0)
    with (
        ThreadPoolExecutor(1) as executor,
        bank.connect("bank_owner", autocommit=False) as reader,
        bank.connect("bank_owner") as owner,
        connect(bank.owner_url) as observer,
    ):
        owner.execute("update bank.installation set sql_digest = 'another'")
        owner.execute("alter view bank.limit_detail set (security_barrier = true)")
        before = written(observer)
        reader.execute("set application_name = 'closing-time'")
        reader.execute("select from bank.limit_detail")
        pid = reader.info.backend_pid
        with pytest.raises(
            MigrationError, match=rf"process {pid} \(postgres, closing-time; idle in transaction"
        ) as raised:
            executor.submit(migrate, bank.owner_url).result(30)
        assert "select from bank.limit_detail" in str(raised.value)
        assert f"s now: it waits for process {pid}" in capsys.readouterr().err
        assert written(observer) == before
        # Meanwhile others read the view.
        assert owner.execute("select from bank.limit_detail").fetchall() == []
        reader.rollback()
        assert migrate(bank.owner_url) == []


def test_a_migrate_that_waits_for_another_says_so_and_finds_its_work_done(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(migration_lock, "REPORT_FIRST_SECONDS", 0.1)
    said: list[str] = []

    def is_said(words: str) -> bool:
        said.append(capsys.readouterr().err)
        return words in "".join(said)

    with ThreadPoolExecutor(1) as executor:
        with Watch(bank.owner_url) as watch, installation_lock(watch):
            second = executor.submit(migrate, bank.owner_url)
            wait_for(lambda: is_said("The lock of whoever migrates or corrects times is waited for"), "it is said")
            assert not second.done()
        assert second.result(20) == []


def test_nobody_but_the_owner_can_hold_up_a_migrate(bank: Bank) -> None:
    for mode in ("access share", "exclusive"):
        with bank.connect(autocommit=False) as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(f"lock table bank.installation in {mode} mode".encode())


LOCK_HOLDER = """
select from pg_stat_activity as a
inner join pg_locks as l on l.pid = a.pid and l.relation = 'bank.installation'::regclass and l.mode = 'ExclusiveLock'
where l.granted and a.state = 'idle in transaction' and a.state_change < clock_timestamp() - interval '1 s'
"""


def test_a_lock_that_is_held_while_an_index_is_made_outlives_the_timeouts_of_the_database(
    bank: Bank, tmp_path: Path
) -> None:
    release = next_release(tmp_path)
    with bank.connect("bank_owner", autocommit=False) as blocker, connect(bank.owner_url) as observer:
        observer.execute(f"alter database {bank.dbname} set idle_in_transaction_session_timeout = '100ms'".encode())
        blocker.execute("set idle_in_transaction_session_timeout = 0")
        blocker.commit()
        blocker.execute(HOLDS_UP["index"].encode())
        process = start(release, "migrate", DATABASE_OWNER_URL=bank.owner_url, PATH="/usr/bin")
        try:
            wait_for(lambda: is_waiting_for(observer, blocker), "migrate waits for an older snapshot")

            def has_been_held_for_longer() -> bool:
                assert process.poll() is None, process.communicate()
                return observer.execute(LOCK_HOLDER).rowcount == 1

            wait_for(has_been_held_for_longer, "its lock has been held for longer")
            blocker.rollback()
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, stderr


# ---- postings ----------------------------------------------------------------------------------------------


@pytest.fixture
def one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a migration of this release that is pending, and needs no lock of a table that is there already."""
    migrations = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, migrations)
    (migrations / "9001.fees.sql").write_text(
        "-- depends: 0009.versions\nset local role bank_owner;\ncreate table bank.fee (fee_id bigint primary key);\n"
    )
    (migrations / "9001.fees.rollback.sql").write_text("drop table bank.fee;\n")
    monkeypatch.setattr(migrate_module, "MIGRATIONS", migrations)
    return "9001.fees"


def test_no_posting_begins_while_a_change_is_under_way_and_afterwards_it_goes_on(
    bank: Bank, one_more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = migrate_module.load_sql
    posted: list[Future[Row]] = []
    with ThreadPoolExecutor(1) as executor, bank.connect() as app, connect(bank.owner_url) as observer:
        ada = open_account(app, 100)

        def post_meanwhile(connection: psycopg.Connection[Any], **named: Any) -> None:
            posted.append(executor.submit(call, app, "credit", ada, 5))
            pids = [app.info.backend_pid, connection.info.backend_pid]
            waits = "select from pg_stat_activity where pid = %s and %s = any(pg_blocking_pids(pid))"
            wait_for(lambda: observer.execute(waits, pids).rowcount == 1, "the posting waits for the change")
            # Nothing that a migration may need: the two would wait for each other.
            locked = "select from pg_locks where pid = %s and granted and relation = any(%s::regclass[])"
            tables = ["bank.transaction", "bank.entry"]
            assert observer.execute(locked, [app.info.backend_pid, tables]).rowcount == 0
            load(connection, **named)

        monkeypatch.setattr(migrate_module, "load_sql", post_meanwhile)
        assert migrate(bank.owner_url) == [one_more]
        [posting] = posted
        assert posting.result(20)["transaction_status"] == "success"
        assert violations(app) == []


def test_a_change_waits_for_a_posting_under_way_which_goes_on_to_its_end(bank: Bank, one_more: str) -> None:
    with (
        ThreadPoolExecutor(1) as executor,
        bank.connect(autocommit=False) as app,
        connect(bank.owner_url) as observer,
    ):
        app.execute("set statement_timeout = '10s'")
        ada = open_account(app)
        app.commit()
        assert call(app, "credit", ada, 5)["transaction_status"] == "success"
        migrating = executor.submit(migrate, bank.owner_url)
        wait_for(lambda: is_waiting_for(observer, app), "the change waits for the posting")
        assert call(app, "credit", ada, 7)["transaction_status"] == "success"
        app.commit()
        assert migrating.result(20) == [one_more]
        assert violations(app) == []


# ---- failing and being killed ------------------------------------------------------------------------------


def test_a_first_migrate_that_fails_leaves_nothing_behind(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query = """
        select 'relation' as kind, oid::regclass::text as name from pg_class where oid >= 16384
        union all select 'schema', nspname::text from pg_namespace where oid >= 16384
        union all select 'function', oid::regprocedure::text from pg_proc where oid >= 16384
        union all select 'type', oid::regtype::text from pg_type where oid >= 16384
        order by 1, 2
    """
    with connect(empty) as connection:
        before = connection.execute(query).fetchall()
        monkeypatch.setattr("service.migrate.last_migration_id", lambda: None)  # the last step refuses it
        with pytest.raises(psycopg.errors.NotNullViolation):
            migrate(empty)
        assert connection.execute(query).fetchall() == before
        monkeypatch.undo()
        assert migrate(empty)[-1] == last_migration_id()


HOLDS_UP = {
    # Who makes an index concurrently waits for older snapshots.
    "additions": "lock table pg_catalog.pg_enum in share mode",
    "changes": "select from bank.transaction for update",
    "functions": "select from bank.posting",
    "index": "set transaction isolation level repeatable read; select from bank.currency",
}


@pytest.mark.parametrize("step", HOLDS_UP)
def test_a_migrate_that_is_killed_leaves_a_bank_that_works_and_the_next_one_completes(
    bank: Bank, tmp_path: Path, step: str
) -> None:
    release = next_release(tmp_path)
    post(bank)
    environment = {"DATABASE_OWNER_URL": bank.owner_url, "PATH": "/usr/bin"}
    role = "postgres" if step == "additions" else "bank_owner"
    with (
        bank.connect(role, autocommit=False) as blocker,
        connect(bank.owner_url) as observer,
    ):
        blocker.execute(HOLDS_UP[step].encode())
        process = start(release, "migrate", **environment)
        try:
            wait_for(lambda: is_waiting_for(observer, blocker), "migrate waits")
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.communicate()
        # Its backend may still wait; the bank works beside it.
        if step != "additions":
            post(bank)
        blocker.rollback()
        gone = "select from pg_stat_activity where datname = %s and pid <> pg_backend_pid() and query ~ 'alter|index'"
        wait_for(
            lambda: observer.execute(gone + " and state = 'active'", [bank.dbname]).rowcount == 0, "its backends end"
        )
    post(bank)
    migrated = run(release, "migrate", **environment)
    assert migrated.returncode == 0, migrated.stderr
    with connect(bank.owner_url) as observer:
        applied = "select migration_id from bank._yoyo_migration where migration_id like '9%' order by 1"
        assert [row["migration_id"] for row in observer.execute(applied).fetchall()] == NEXT_MIGRATIONS
        invalid = "select from pg_index where not indisvalid union all select from pg_constraint where not convalidated"
        assert observer.execute(invalid).fetchall() == []
    post(bank)
