"""Which migrations are applied: yoyo's account of it, and yoyo's way to the database over a connection of ours.

Its tables stand in schema bank and belong to bank_owner: whoever may take that role may migrate, no other application
that uses yoyo meets them, and what was dumped of the schema is complete.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row
from yoyo import default_migration_table, internalmigrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI, parse_uri
from yoyo.migrations import Migration, MigrationList

from service.migration_lock import Connection
from service.prerequisites import PrerequisiteError, quoted

_HAS_TABLES = "select from pg_class as c where c.relnamespace = 'bank'::regnamespace and c.relname = %s"

# Where releases before this one left them: in the first schema of the search_path. Whoever migrated is a member of
# bank_owner; tables of others are not touched, for they may have triggers.
_ELSEWHERE = """
select
    n.nspname::text as schema,
    c.relname::text as name,
    pg_get_userbyid(c.relowner)::text as owner,
    has_schema_privilege(n.oid, 'usage')
    and has_table_privilege(c.oid, 'select')
    and has_table_privilege(c.oid, 'delete') as is_open,
    has_schema_privilege('bank_owner', n.oid, 'usage')
    and has_table_privilege('bank_owner', c.oid, 'select')
    and has_table_privilege('bank_owner', c.oid, 'delete') as is_open_to_owner,
    pg_has_role(c.relowner, 'usage') as may_drop
from pg_class as c
inner join pg_namespace as n on c.relnamespace = n.oid
where
    n.nspname <> 'bank' and c.relkind = 'r' and c.relpersistence <> 't'
    and c.relname in ('_yoyo_migration', '_yoyo_log', '_yoyo_version', 'yoyo_lock')
    and pg_has_role(c.relowner, 'bank_owner', 'member')
order by n.nspname, c.relname
"""
_FIRST_MIGRATION = "0001.ledger"


class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # it has no types
    """What yoyo does by it is in the transaction that we are in."""

    def __init__(self, connection: Connection) -> None:
        self._ours = connection
        super().__init__(parse_uri("postgresql+psycopg://"), default_migration_table)
        self._in_transaction = True  # so that it makes savepoints
        self._internal_schema_updated = True  # it would take its own lock for that

    def connect(self, dburi: DatabaseURI) -> Connection:  # noqa: D102 - yoyo calls it
        return self._ours

    def __exit__(self, *_: object) -> None:
        pass  # the connection stays open

    @contextmanager
    def _account(self) -> Iterator[None]:
        """Let yoyo, which names no schema, find its tables: within the block they are what is executed upon."""
        with self._ours.transaction():
            self._ours.execute("set local role bank_owner")
            self._ours.execute("set local search_path = bank, pg_temp")
            yield
            self._ours.execute("set local search_path to default")
            self._ours.execute("reset role")

    def prepare(self, migrations: MigrationList) -> bool:
        """Make its tables where they are missing, and take over what releases before this one noted elsewhere.

        Return whether that was necessary. Raises PrerequisiteError where a bank's account is not found, or the login
        may not use it.
        """
        is_new = self._ours.execute(_HAS_TABLES, [self.migration_table]).rowcount == 0
        self.make_tables()
        if is_new:
            self._take_over(migrations)
        return is_new

    def make_tables(self) -> None:
        """Make its tables where they are missing or of an earlier yoyo."""
        with self._account():
            if internalmigrations.needs_upgrading(self):
                internalmigrations.upgrade(self)

    def applied(self) -> dict[str, str]:
        """Return the hash of each migration that is applied, with its id."""
        with self._account():
            query = "select migration_hash, migration_id from bank._yoyo_migration"
            return dict(self._ours.execute(query).fetchall())

    def pending(self, migrations: MigrationList) -> list[Migration]:
        """Return those that are not applied, in the order in which they can be."""
        with self._account():
            return list(self.to_apply(migrations))

    def mark(self, migration: Migration) -> None:
        """Note that a migration is applied."""
        with self._account():
            self.mark_one(migration, log=False)
            self.log_migration(migration, "apply")

    # ---- of releases before this one -----------------------------------------------------------------------

    def _take_over(self, migrations: MigrationList) -> None:
        """Move what is noted of these migrations; what another application has noted there stays."""
        hashes = [migration.hash for migration in migrations]
        with self._ours.cursor(row_factory=dict_row) as cursor:
            tables = cursor.execute(_ELSEWHERE).fetchall()
        closed = [table for table in tables if not (table["is_open"] or table["is_open_to_owner"])]
        for table in tables:
            if table not in closed and table["name"] in (self.migration_table, self.log_table):
                self._move(table, hashes)
        if _FIRST_MIGRATION not in self.applied().values():
            raise PrerequisiteError(_fault([table for table in closed if table["name"] == self.migration_table]))
        for schema in {table["schema"] for table in tables}:
            self._drop_if_empty([table for table in tables if table["schema"] == schema])

    def _move(self, table: dict[str, Any], hashes: list[str]) -> None:
        with self._ours.transaction(), self._ours.cursor() as cursor:
            if not table["is_open"]:
                cursor.execute("set local role bank_owner")
            query = sql.SQL("delete from {} where migration_hash = any(%s) returning *").format(_identifier(table))
            rows = cursor.execute(query, [hashes]).fetchall()
            columns = [column.name for column in cursor.description or ()]
            cursor.execute("set local role bank_owner")
            statement = sql.SQL("insert into bank.{} ({}) values ({}) on conflict do nothing").format(
                sql.Identifier(table["name"]),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
            )
            cursor.executemany(statement, rows)
            cursor.execute("reset role")

    def _drop_if_empty(self, tables: list[dict[str, Any]]) -> None:
        """Drop the tables of a schema where nobody has noted anything but us."""
        for table in tables:
            if table["name"] == self.migration_table and table["is_open"]:
                rows = self._ours.execute(sql.SQL("select from {} limit 1").format(_identifier(table)))
                if rows.rowcount == 0 and all(each["may_drop"] for each in tables):
                    self._ours.execute(sql.SQL("drop table {}").format(_identifiers(tables)))


def _identifier(table: dict[str, Any]) -> sql.Identifier:
    return sql.Identifier(table["schema"], table["name"])


def _identifiers(tables: Iterable[dict[str, Any]]) -> sql.Composed:
    return sql.SQL(", ").join(map(_identifier, tables))


def _fault(closed: list[dict[str, Any]]) -> str:
    if not closed:
        return (
            "the bank in this database has lost the table in which its migrations are noted, _yoyo_migration, or it "
            "belongs to a role that is no member of bank_owner: restore it, or give it to one"
        )
    owner, schema = closed[0]["owner"], quoted(closed[0]["schema"])
    return (
        f"the migrations of this bank are noted in {schema}._yoyo_migration, and belong into schema bank, but this "
        f"login may not move them; {owner} or a superuser mends that by: grant usage on schema {schema} to bank_owner; "
        f"grant select, delete on {schema}._yoyo_migration to bank_owner"
    )
