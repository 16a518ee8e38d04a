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

OF_A_DATABASE, OF_THE_SERVER, OF_GRANTS = re.findall(
    r"^```sql\n(.+?)^```$", (ROOT / "docs/deployment.md").read_text(), re.MULTILINE | re.DOTALL
)
# Of the whole server, and of the database that is asked: what may be left behind.
LEFT = {
    "roles": "select rolname from pg_roles where rolname ~ '^(bank|pgteller)'",
    "schemas": "select nspname from pg_namespace where nspname !~ '^(pg_|information_schema$)' and nspname <> 'public'",
    "tables": "select relname from pg_class where relnamespace = 'public'::regnamespace",
    "types": "select typname from pg_type where typnamespace = 'public'::regnamespace",
    "functions": "select proname from pg_proc where pronamespace = 'public'::regnamespace",
    "default privileges": "select defaclacl::text from pg_default_acl",
    "settings of roles": "select setconfig::text from pg_db_role_setting",
    "memberships": "select roleid::regrole::text from pg_auth_members where roleid::regrole::text ~ '^(bank|pgteller)'",
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


def test_nothing_is_left_and_another_bank_of_the_server_goes_on(
    hosted: EmbeddedPostgres, logins: tuple[str, str, str]
) -> None:
    first, second, as_superuser = logins
    service = hosted.conninfo("second", "pgteller_service", "of-the-service")
    assert left(as_superuser) == {}
    for database_url in (first, second):
        migrate(database_url, "of-the-app", service_login=service_login(Settings(), "of-the-service"))
        use(database_url)
    of_the_server = {"roles", "settings of roles", "memberships"}
    assert set(left(as_superuser)) == of_the_server | {"schemas", "default privileges"}

    execute(first, OF_A_DATABASE)
    before = left(as_superuser)
    assert set(before) == of_the_server
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="bank_app") as refused:
        execute(first, OF_THE_SERVER)
    assert "database second" in (refused.value.diag.message_detail or "")
    assert left(as_superuser) == before
    use(service)

    execute(second, OF_A_DATABASE)
    execute(second, OF_THE_SERVER)
    assert left(as_superuser) == {}


def test_what_was_granted_to_the_roles_is_named_and_taken_back(logins: tuple[str, str, str]) -> None:
    first, _, as_superuser = logins
    migrate(first, service_login=service_login(Settings(), "of-the-service"))
    execute(first, "create schema shop; grant usage on schema shop to bank_app, bank_reader")
    execute(first, "grant connect on database first to pgteller_service, bank_reader")
    execute(first, OF_A_DATABASE)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist) as refused:
        execute(first, OF_THE_SERVER)
    assert "privileges for database first" in (refused.value.diag.message_detail or "")
    execute(first, OF_GRANTS)
    execute(first, OF_THE_SERVER)
    execute(first, "drop schema shop")
    assert left(as_superuser) == {}


def test_a_bank_can_be_installed_again_where_one_was_removed(logins: tuple[str, str, str]) -> None:
    first, _, as_superuser = logins
    for _ in itertools.repeat(None, 2):
        migrate(first)
        use(first)
        execute(first, OF_A_DATABASE + OF_THE_SERVER)
        assert left(as_superuser) == {}
