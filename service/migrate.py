"""Bring a database to this version: apply the migrations, then load sql/.

yoyo keeps account of migrations. Three of its habits are worked around here: its command skips the post-apply hook
when nothing is pending (sql/ may still have changed), it does not retry a hook that failed, and a crash leaves its
lock row behind.
"""

import getpass
import json
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from yoyo import default_migration_table, read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI, parse_uri

from service.installation import MIGRATIONS, error_catalogue, last_migration_id, sql_digest, sql_files
from service.session import session_options
from service.watch import Watch

# Any number that nobody else uses as an advisory lock in the same database.
_MIGRATION_LOCK = 7_358_835_537
_MIGRATION_LOCK_POLL_SECONDS = 0.1

# From this version on, who creates a role without being a superuser cannot take that role unless the server is told so.
# The role that a hosting provider hands out is such a one.
_CREATOR_IS_NO_MEMBER = 160_000


# Each function of the schema with the transaction that wrote it last.
_FUNCTIONS = """
select p.oid::regprocedure::text, p.xmin::text from pg_proc as p where p.pronamespace = 'bank'::regnamespace
"""


def migrate(database_owner_url: str, app_password: str | None = None) -> list[str]:
    """Apply what is pending and load sql/; return the ids of the migrations applied.

    database_owner_url: a role that may create roles, or is a member of bank_owner. Concurrent calls wait for each
    other; a second call finds nothing pending and loads sql/ again, which changes nothing.
    app_password: let bank_app log in with it afterwards.
    """
    # yoyo asks for the user's name after it has applied a migration, before it marks it: fail before anything is done.
    getpass.getuser()
    with Watch(database_owner_url) as watch, watch.connect() as guard:
        # Held by the session, so a crash releases it. Whoever holds it knows that a lock row of yoyo's is stale.
        wait_for_lock(guard)
        with _yoyo_backend(database_owner_url, watch, guard.info.server_version) as backend:
            backend.break_lock()
            with backend.lock():
                migrations = read_migrations(str(MIGRATIONS))
                pending = backend.to_apply(migrations)
                applied = [migration.id for migration in pending]
                backend.apply_migrations_only(pending)
                backend.run_post_apply(migrations)
        with guard.transaction():
            guard.execute("set local role bank_owner")
            guard.execute("select bank._mend_sequences()")
        if app_password is not None:
            set_app_password(guard, app_password)
    return applied


def wait_for_lock(connection: psycopg.Connection[Any]) -> None:
    """Wait until no other session migrates or corrects times; the lock is the session's, to its end.

    It is asked for again and again: a statement that waits for it has a snapshot, which an index that the other one
    makes concurrently would wait for.
    """
    statement = "select from (select pg_try_advisory_lock(%s) as locked) as tried where locked"
    while connection.execute(statement, [_MIGRATION_LOCK]).fetchone() is None:
        time.sleep(_MIGRATION_LOCK_POLL_SECONDS)


def set_app_password(connection: psycopg.Connection[Any], password: str) -> None:
    """Let bank_app log in with the password; the connection's role is a superuser, or the one that created bank_app."""
    # Encrypted here, so that no log of the server's can hold the password itself.
    encrypted = connection.pgconn.encrypt_password(password.encode(), b"bank_app", b"scram-sha-256")
    connection.execute(sql.SQL("alter role bank_app login password {}").format(sql.Literal(encrypted.decode())))


def load_sql(connection: Any) -> None:
    """Load every file of sql/ as bank_owner and note what is installed; called by migrations/post-apply.py."""
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
        cursor.execute("select bank._install(%s, %s, %s)", [last_migration_id(), sql_digest(), json.dumps(errors)])


def _load(cursor: Any, path: Path) -> None:
    try:
        if path.parent.name in ("ids", "internal", "api", "admin"):
            _define(cursor, *path.read_text(encoding="utf-8").partition("\ncomment on function"), name=path.stem)
        else:
            cursor.execute(path.read_text(encoding="utf-8"))
    except psycopg.Error as error:
        error.add_note(f"while loading {path}")
        raise


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


def _yoyo_backend(database_url: str, watch: Watch, server_version: int) -> PostgresqlPsycopgBackend:
    """Return yoyo's way to the database, with connections of ours: it opens one for each migration."""
    own = {"createrole_self_grant": "set,inherit"} if server_version >= _CREATOR_IS_NO_MEMBER else {}

    class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # it has no types
        def connect(self, dburi: DatabaseURI) -> psycopg.Connection[Any]:
            return watch.connect(options=session_options(database_url, **own))

    backend = Backend(parse_uri("postgresql+psycopg://"), default_migration_table)
    backend.init_database()
    return backend
