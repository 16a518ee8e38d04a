"""Bring a database to this version while the bank runs: apply the migrations, and load sql/.

1. Migrations outside of a transaction, which only add what running functions do not see: values of enums, indexes made
   concurrently. Each is marked by itself; what was interrupted is done again.
2. All others, the functions and the marks in one transaction: nobody ever finds a function missing. It never waits for
   a lock that callers would queue behind: it gives up soon, is rolled back, and tries again.
3. Migrations outside of a transaction that depend on those: indexes of new columns, constraints that are validated.

An empty database gets all of it in one transaction. When nothing has changed nothing at all happens.
yoyo reads the migrations and keeps account of them; its lock, and its way to apply and mark one in two transactions,
are not used.
"""

import getpass
import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from yoyo import read_migrations
from yoyo.migrations import Migration, topological_sort

from service import logins, prerequisites
from service.installation import (
    MIGRATIONS,
    Installed,
    breaking_migration_id,
    breaks_services,
    error_catalogue,
    last_migration_id,
    release,
    sql_digest,
    sql_files,
)
from service.logins import Login
from service.migration_account import Backend
from service.migration_lock import Connection, MigrationError, Waiting, held
from service.terminal import say
from service.watch import Watch

# From this version on, who creates a role without being a superuser cannot take that role unless the server is told so.
# The role that a hosting provider hands out is such a one.
_CREATOR_IS_NO_MEMBER = 160_000

_LOCK_TIMEOUT_MS = 200
"""Whoever comes after us in the queue for a lock waits as long as we do."""
_PAUSE_SECONDS = 0.5

_IN_THE_WAY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
_INSTALLED_MEANWHILE = (
    *_IN_THE_WAY,
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateObject,
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateSchema,
    psycopg.errors.DuplicateFunction,
)

_CREATE_TYPE = re.compile(r"^\s*create type (bank\.\w+) as enum\b", re.IGNORECASE)
_ADD_VALUE = re.compile(r"^alter type (bank\.\w+) add value if not exists '(\w+)'(?: (before|after) '(\w+)')?", re.M)

# Each function of ours with the transaction that wrote it last. What others have in the schema is left alone.
_FUNCTIONS = """
select p.oid::regprocedure::text, p.xmin::text from pg_proc as p
where
    p.pronamespace = 'bank'::regnamespace
    and p.prokind = 'f'
    and p.proowner = 'bank_owner'::regrole
    and not exists (
        select from pg_depend as d
        where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype in ('e', 'i')
    )
"""
_LOADED = """
select i.sql_digest, i.migration_id, has_schema_privilege('bank_app', 'bank', 'usage') from bank.installation as i
"""
_VIEW = """
select pg_get_viewdef(c.oid), c.reloptions from pg_class as c
where c.relnamespace = 'bank'::regnamespace and c.relkind = 'v' and c.relname = %s
"""


def migrate(
    database_owner_url: str,
    app_password: str | None = None,
    *,
    service_login: Login | None = None,
    pooler: str = "auto",
) -> list[str]:
    """Apply what is pending and load sql/ where it differs; return the ids of the migrations applied, in order.

    database_owner_url: a role that may create roles, or, once they are there, a member of bank_owner. Concurrent calls
    wait for each other; a second call finds nothing to do. A database of a newer version is left as it is.
    app_password: let bank_app log in with it afterwards.
    service_login: the login of the service, to be made, or to get its password and settings anew.
    pooler: as the setting DATABASE_POOLER has it.
    Raises psycopg.Error; PrerequisiteError before anything is changed when the database or the login lacks what it
    takes; MigrationError where something was waited for too long, or this version is too old.
    """
    # yoyo asks for the user's name when it marks a migration: fail before anything is done.
    getpass.getuser()
    with Watch(database_owner_url, pooler=pooler) as watch, watch.connect() as connection:
        prerequisites.check(
            connection,
            sets_app_password=app_password is not None,
            service_login=None if service_login is None else service_login.name,
        )
        applied = _install_first(watch, connection)
        while (step := _step(watch, connection)) is not None:
            applied += step
        if app_password is not None:
            set_app_password(connection, app_password)
        if service_login is not None:
            logins.ensure(connection, service_login)
    return applied


def set_app_password(connection: Connection, password: str) -> None:
    """Let bank_app log in with the password; the connection's role is a superuser, or the one that created bank_app."""
    with connection.transaction():
        logins.set_password(connection, "bank_app", password)
        connection.execute("alter role bank_app login")


# ---- an empty database -------------------------------------------------------------------------------------


def _install_first(watch: Watch, connection: Connection) -> list[str]:
    """Install everything in one transaction where nothing is installed; what fails leaves nothing behind."""
    with _waiting(watch, connection, "The first installation") as waiting:
        while connection.execute("select to_regclass('bank.installation')").fetchone() == (None,):
            try:
                with connection.transaction(), Backend(connection) as backend:
                    if connection.info.server_version >= _CREATOR_IS_NO_MEMBER:
                        connection.execute("set local createrole_self_grant = 'set, inherit'")
                    _limit_lock_waits(connection)
                    migrations = list(topological_sort(read_migrations(str(MIGRATIONS))))
                    connection.cursor_factory = partial(_FirstInstall, _added_values(migrations))  # type: ignore[assignment]
                    _apply(backend, migrations, mark=False)
                    connection.cursor_factory = psycopg.Cursor
                    backend.make_tables()  # in the schema that there is now
                    for migration in migrations:
                        backend.mark(migration)
                    load_sql(connection)
            except _INSTALLED_MEANWHILE as error:
                # Somebody else is at it. When that is done we find it done.
                waiting.again(error)
                time.sleep(_PAUSE_SECONDS)
            else:
                return [migration.id for migration in migrations]
            finally:
                connection.cursor_factory = psycopg.Cursor
    return []


class _FirstInstall(psycopg.Cursor[Any]):
    """Executes migrations where nobody uses the tables yet, so that all of them go into one transaction.

    added_values: of each enum, with their places. It gets them when it is made: added in its transaction they could not
    be used in it before PostgreSQL 17.
    """

    def __init__(
        self, added_values: dict[str, list[tuple[str, str, str]]], connection: Connection, **named: Any
    ) -> None:
        super().__init__(connection, **named)
        self._added_values = added_values

    def execute(self, query: Any, *arguments: Any, **named: Any) -> "_FirstInstall":
        if isinstance(query, str):
            query = re.sub(r"\bindex concurrently\b", "index", query, flags=re.IGNORECASE)
        super().execute(query, *arguments, **named)
        created = _CREATE_TYPE.match(query) if isinstance(query, str) else None
        if created is not None and created[1] in self._added_values:
            self._complete(created[1])
        return self

    def _complete(self, enum: str) -> None:
        rows = super().execute(
            "select enumlabel from pg_enum where enumtypid = %s::regtype order by enumsortorder", [enum]
        )
        labels = [label for (label,) in rows.fetchall()]
        for value, where, neighbour in self._added_values[enum]:
            place = labels.index(neighbour) + (where == "after") if where else len(labels)
            labels.insert(place, value)
        name, values = sql.SQL(enum), sql.SQL(", ").join(map(sql.Literal, labels))
        super().execute(sql.SQL("drop type {}").format(name))
        super().execute(sql.SQL("create type {} as enum ({})").format(name, values))


def _added_values(migrations: Iterable[Migration]) -> dict[str, list[tuple[str, str, str]]]:
    added: dict[str, list[tuple[str, str, str]]] = {}
    for migration in migrations:
        for enum, *value in _ADD_VALUE.findall(Path(migration.path).read_text(encoding="utf-8")):
            added.setdefault(enum, []).append(tuple(value))
    return added


# ---- a bank that may be running ----------------------------------------------------------------------------


def _step(watch: Watch, connection: Connection) -> list[str] | None:
    """Do what can be done next; return the ids of the migrations applied, None when nothing was left to do.

    What is left is found anew each time, under the lock: somebody else may have been faster.
    """
    with held(watch, connection), Backend(connection) as backend:
        migrations = read_migrations(str(MIGRATIONS))
        if backend.prepare(migrations):
            return []  # committed, so that other connections find it
        applied = backend.applied()
        unknown = sorted(applied[migration_hash] for migration_hash in {*applied} - _hashes(migrations))
        if unknown and _is_newer(connection, unknown):
            return None
        pending = backend.pending(migrations)
        additions = [each for each in pending if not each.use_transactions and _hashes(each.depends) <= {*applied}]
        if additions:
            with watch.connect() as other, Backend(other) as beside:
                for migration in additions:
                    _apply_beside(beside, migration)
            _note_break(connection, additions)
            return [migration.id for migration in additions]
        changes: list[Migration] = []
        for migration in pending:
            if migration.use_transactions and _hashes(migration.depends) <= {*applied, *_hashes(changes)}:
                changes.append(migration)
        # The functions come with the last change.
        is_last = all(each in changes or not each.use_transactions for each in pending)
        if changes or (is_last and not _is_loaded(connection)):
            _change(watch, connection, backend, changes, load=is_last)
            return [migration.id for migration in changes]
        if pending:
            raise MigrationError(f"no migration that {pending[0].id} depends on can be applied")
    with connection.transaction():
        connection.execute("set local role bank_owner")
        # Of reversals that functions of an earlier version made until they were replaced.
        connection.execute("select bank._fill_in_reversals()")
    with connection.transaction():
        connection.execute("set local role bank_owner")
        connection.execute("select bank._mend_sequences()")
    return None


def _hashes(migrations: Iterable[Migration]) -> set[str]:
    return {migration.hash for migration in migrations}


def _is_newer(connection: Connection, unknown: list[str]) -> bool:
    """Return whether a newer version is installed that this one works on. Raises MigrationError where it does not.

    unknown: the migrations that are applied and that this version does not have.
    """
    installed = _installed(connection)
    if installed is None:
        raise MigrationError(f"this version is too old for the database, which has {unknown[-1]}")
    is_begun = installed.migration_id <= last_migration_id() and installed.migration_id < unknown[0]
    if is_begun and not installed.is_broken:
        # Its migrate was interrupted before the functions came: what it has done does not disturb those of others.
        if installed.is_newest:
            say(
                f"A newer version has begun to migrate, with {', '.join(unknown)}, and its `pgteller migrate` goes on "
                "with it. This version works meanwhile; nothing was changed.",
                err=True,
            )
        return installed.is_newest
    if not installed.is_newer:
        raise MigrationError(installed.fault or f"this version is too old for the database, which has {unknown[-1]}")
    say(
        f"A newer version is installed, {installed.release}, with {', '.join(unknown)}. "
        "This version works on it; nothing was changed.",
        err=True,
    )
    return True


def _installed(connection: Connection) -> Installed | None:
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("set local role bank_owner")
        rows = cursor.execute("select * from bank.health()").fetchall()
        cursor.execute("reset role")
    return Installed.of(rows[0]) if rows else None


def _is_loaded(connection: Connection) -> bool:
    """Return whether the functions are ours, and granted: a schema that is restored into is without its own rights."""
    with connection.transaction():
        connection.execute("set local role bank_owner")
        rows = connection.execute(_LOADED).fetchall()
        connection.execute("reset role")
    return rows == [(sql_digest(), last_migration_id(), True)]


def _apply_beside(backend: Backend, migration: Migration) -> None:
    """Apply a migration outside of a transaction, and mark it."""
    try:
        _run(backend, migration)
        with backend.connection.transaction():
            backend.mark(migration)
    except psycopg.Error as error:
        error.add_note(f"in migration {migration.id}; the bank goes on, and `pgteller migrate` does it again")
        raise


def _change(watch: Watch, connection: Connection, backend: Backend, migrations: list[Migration], *, load: bool) -> None:
    """Apply migrations and load the functions, all of it or nothing; without making anybody wait for long."""
    with _waiting(watch, connection, "A lock of the bank's tables and views") as waiting:
        while True:
            try:
                with connection.transaction():
                    _limit_lock_waits(connection)
                    if migrations:
                        _hold_up_postings(connection)
                    _apply(backend, migrations)
                    if load:
                        load_sql(connection)
                    else:
                        _note_break(connection, migrations)
            except _IN_THE_WAY as error:
                waiting.again(error)
                time.sleep(_PAUSE_SECONDS)
            else:
                return


def _hold_up_postings(connection: Connection) -> None:
    """Let the postings that are under way end, and no other begin: they lock accounts first, and then other tables.

    So none of them has what a migration needs and waits for what the migration has. Not a weaker lock, which would have
    to be raised for most migrations: who has read accounts in the same transaction waits for it, and is waited for.
    """
    connection.execute("set local role bank_owner")
    connection.execute("lock table bank.account in access exclusive mode")
    connection.execute("reset role")


def _apply(backend: Backend, migrations: Iterable[Migration], *, mark: bool = True) -> None:
    """Apply migrations in the transaction of the connection, and mark them."""
    for migration in migrations:
        try:
            _run(backend, migration)
            if mark:
                backend.mark(migration)
        except psycopg.Error as error:
            error.add_note(f"in migration {migration.id}; nothing was changed")
            raise


def _note_break(connection: Connection, migrations: Iterable[Migration]) -> None:
    """Let services know that they cannot go on, where that is so before the functions come."""
    breaking = [migration.id for migration in migrations if breaks_services(Path(migration.path))]
    if not breaking:
        return
    connection.execute("set local role bank_owner")
    column = "select from pg_attribute where attrelid = 'bank.installation'::regclass and attname = %s"
    if connection.execute(column, ["breaking_migration_id"]).rowcount:
        connection.execute("update bank.installation set breaking_migration_id = %s", [max(breaking)])
    connection.execute("reset role")


def _run(backend: Backend, migration: Migration) -> None:
    """Execute the steps of a migration, as whoever logged in. Not by yoyo, which undoes steps of one that failed."""
    migration.load()
    for step in migration.steps:
        step.apply(backend)
    backend.connection.execute("reset role")


def _limit_lock_waits(connection: Connection) -> None:
    connection.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT_MS}ms'")


@contextmanager
def _waiting(watch: Watch, connection: Connection, what: str) -> Iterator[Waiting]:
    [pid] = connection.execute("select pg_backend_pid()").fetchone() or [0]
    with Waiting(watch, pid, what) as waiting:
        yield waiting


# ---- the functions -----------------------------------------------------------------------------------------


def load_sql(connection: Connection) -> None:
    """Load every file of sql/ as bank_owner and note what is installed, in the transaction of the connection."""
    errors = {
        code: {**facts, "precedence": number}
        for number, (code, facts) in enumerate(error_catalogue().items(), 1)
        if facts["kind"] != "service"
    }
    with connection.cursor() as cursor:
        cursor.execute("set local role bank_owner")
        # Functions call each other in no particular order.
        cursor.execute("set local check_function_bodies = off")
        *definitions, grants = sql_files()
        before = set(cursor.execute(_FUNCTIONS).fetchall())
        for path in definitions:
            _load(cursor, path)
        # What was not created anew just now has no file any more. (Grants would touch it too.)
        for function, _ in before & set(cursor.execute(_FUNCTIONS).fetchall()):
            cursor.execute(f"drop function {function}")
        _load(cursor, grants)
        cursor.execute(
            "select bank._install(%s, %s, %s, %s, %s)",
            [last_migration_id(), sql_digest(), json.dumps(errors), release(), breaking_migration_id()],
        )
        cursor.execute("reset role")


def _load(cursor: Any, path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        if path.parent.name in ("ids", "internal", "api", "admin"):
            _define(cursor, *text.partition("\ncomment on function"), name=path.stem)
        elif path.parent.name != "views" or _is_changed(cursor, path.stem, text):
            cursor.execute(text)
    except psycopg.errors.DependentObjectsStillExist as error:
        dependents = "; ".join((error.diag.message_detail or "").splitlines())
        error.add_note(f"while loading {path}: {dependents}. Drop what depends on it, run this again, and make it anew")
        raise
    except psycopg.Error as error:
        error.add_note(f"while loading {path}")
        raise


def _is_changed(cursor: Any, name: str, text: str) -> bool:
    """Return whether a view is not as the file has it: to replace it would stop everybody who reads it.

    PostgreSQL compares the two, so that also a view that somebody changed, or whose columns have changed, is found.
    """
    [before] = cursor.execute(_VIEW, [name]).fetchall() or [None]
    if before is None:
        return True
    created, _, comment = text.partition("\ncomment on view")
    cursor.execute("savepoint candidate")
    cursor.execute(re.sub(rf"\bview bank\.{name}\b", "view bank._candidate", created, count=1))
    [candidate] = cursor.execute(_VIEW, ["_candidate"]).fetchall()
    cursor.execute("rollback to savepoint candidate")
    if candidate != before:
        return True
    if comment:
        cursor.execute("comment on view" + comment)
    return False


def _define(cursor: Any, definition: str, *comment: str, name: str) -> None:
    """Create or replace a function. Whatever else has its name is of an earlier version, and goes.

    Replaced it keeps its identity, and callers notice nothing. But with other parameters it is another function to
    PostgreSQL, beside the earlier one; and a parameter cannot be renamed, nor what is returned be changed.
    """
    namesakes = f"{_FUNCTIONS} and p.proname = %s"
    before = set(cursor.execute(namesakes, [name]).fetchall())
    cursor.execute("savepoint definition")
    try:
        cursor.execute(definition)
    except psycopg.errors.InvalidFunctionDefinition:
        cursor.execute("rollback to savepoint definition")
        for function, _ in before:
            cursor.execute(f"drop function {function}")
        cursor.execute(definition)
    cursor.execute("release savepoint definition")
    for function, _ in before & set(cursor.execute(namesakes, [name]).fetchall()):
        cursor.execute(f"drop function {function}")
    if any(comment):
        cursor.execute("".join(comment))
