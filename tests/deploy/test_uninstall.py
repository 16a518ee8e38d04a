"""What docs/deployment.md says to remove is all that there is, and what another bank needs stays."""

import itertools
import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from service.config import Settings
from service.embedded import EmbeddedPostgres
from service.installation import ROOT
from service.logins import service_login
from service.migrate import migrate
from tests.helpers import open_account
from tests.test_packaging import hosted

__all__ = ["hosted"]  # a server of its own: its roles are dropped

OF_A_DATABASE, OF_THE_SERVER = re.findall(
    r"^```sql\n(.+?)^```$", (ROOT / "docs/deployment.md").read_text(), re.MULTILINE | re.DOTALL
)
# Of the whole server, and of the database that is asked: what may be left behind.
LEFT = {
    "roles": "select rolname from pg_roles where rolname like 'bank%'",
    "schemas": "select nspname from pg_namespace where nspname !~ '^(pg_|information_schema$)' and nspname <> 'public'",
    "tables": "select relname from pg_class where relnamespace = 'public'::regnamespace",
    "types": "select typname from pg_type where typnamespace = 'public'::regnamespace",
    "functions": "select proname from pg_proc where pronamespace = 'public'::regnamespace",
    "default privileges": "select defaclacl::text from pg_default_acl",
    "settings of roles": "select setconfig::text from pg_db_role_setting",
    "memberships": "select roleid::regrole::text from pg_auth_members where roleid::regrole::text like 'bank%'",
    "extensions": "select extname from pg_extension where extname <> 'plpgsql'",
}


def left(database_url: str) -> dict[str, list[str]]:
    with psycopg.connect(database_url) as connection:
        found = {what: [row[0] for row in connection.execute(sql.SQL(query))] for what, query in LEFT.items()}
    return {what: names for what, names in found.items() if names}


def execute(database_url: str, statements: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(statements.encode())


def use(database_url: str) -> None:
    """Open an account and credit it, as the application may."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("set role bank_app")
        assert open_account(connection, 12500)


@pytest.fixture(params=["superuser", "owner"])
def logins(request: pytest.FixtureRequest, hosted: EmbeddedPostgres) -> Iterator[tuple[str, str, str]]:
    """URLs of two databases for the login that migrates, and of the first one for a superuser."""
    login, password = ("postgres", None) if request.param == "superuser" else ("host_owner", "of-the-owner")
    with psycopg.connect(hosted.conninfo("postgres"), autocommit=True) as superuser:
        if password is not None:
            superuser.execute("create role host_owner login createrole password 'of-the-owner'")
        for dbname in ("first", "second"):
            superuser.execute(f"create database {dbname} owner {login}")
    first, second = (
        hosted.conninfo(dbname, login, password) if password else hosted.conninfo(dbname)
        for dbname in ("first", "second")
    )
    yield first, second, hosted.conninfo("first")


def test_nothing_is_left_and_another_bank_of_the_server_goes_on(logins: tuple[str, str, str]) -> None:
    first, second, as_superuser = logins
    assert left(as_superuser) == {}
    for database_url in (first, second):
        migrate(database_url, "of-the-app", service_login=service_login(Settings(), "of-the-service"))
        use(database_url)
    assert set(left(as_superuser)) == {"roles", "schemas", "tables", "types", "default privileges", "memberships"} - (
        {"memberships"} if first == as_superuser else set()
    )

    execute(first, OF_A_DATABASE)
    assert set(left(as_superuser)) <= {"roles", "memberships"}
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="bank_app") as refused:
        execute(first, OF_THE_SERVER)
    assert "database second" in (refused.value.diag.message_detail or "")
    use(second)

    execute(second, OF_A_DATABASE)
    execute(second, OF_THE_SERVER)
    assert left(as_superuser) == {}


def test_a_bank_can_be_installed_again_where_one_was_removed(logins: tuple[str, str, str]) -> None:
    first, _, as_superuser = logins
    for _ in itertools.repeat(None, 2):
        migrate(first)
        use(first)
        execute(first, OF_A_DATABASE + OF_THE_SERVER)
        assert left(as_superuser) == {}
