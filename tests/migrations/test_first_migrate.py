"""A first migrate that cannot succeed says what mends it, before it has changed anything; and that does mend it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from service.embedded import EmbeddedPostgres
from service.logins import Login, LoginError
from service.migrate import migrate
from service.prerequisites import PrerequisiteError, version_fault
from tests.migrations.test_migrate import (
    MIGRATION_IDS,
    ROLES,
    NewDatabase,
    another_server,
    connect,
    first_database,
    new_database,
    post,
    server_without_roles,
)

__all__ = ["another_server", "first_database", "new_database", "server_without_roles"]

LOGINS = ("first", "second")
SET_OPTION = 160_000
OBJECTS = """
select count(*) as found from pg_class as c inner join pg_namespace as n on c.relnamespace = n.oid
where n.nspname = 'bank' or c.relname like '%yoyo%'
"""


@dataclass
class Hosts:
    """A server on which no bank was ever installed, with two logins that are no superusers."""

    server: EmbeddedPostgres
    new_database: NewDatabase

    def url(self, login: str, dbname: str) -> str:
        return self.server.conninfo(dbname, login, "secret")

    def superuser_runs(self, statements: str, dbname: str = "postgres") -> None:
        with connect(self.server.conninfo(dbname)) as superuser:
            superuser.execute(statements.encode())

    @property
    def is_old(self) -> bool:
        with connect(self.server.conninfo("postgres")) as superuser:
            return superuser.info.server_version < SET_OPTION

    def objects(self, dbname: str) -> int:
        with connect(self.server.conninfo(dbname)) as superuser:
            [row] = superuser.execute(OBJECTS).fetchall()
        return int(row["found"])

    def mend(self, login: str, dbname: str) -> str:
        """Migrate in vain, see that nothing was changed, and let a superuser run what the message says."""
        with pytest.raises(PrerequisiteError) as raised:
            migrate(self.url(login, dbname))
        message = str(raised.value)
        assert "\n" not in message
        assert self.objects(dbname) == 0
        self.superuser_runs(message.rpartition(" by: ")[2], dbname)
        return message


@pytest.fixture
def two_logins(server_without_roles: EmbeddedPostgres) -> Iterator[None]:
    """They outlive the databases of a test, which they may own."""
    with connect(server_without_roles.conninfo("postgres")) as superuser:
        for login in LOGINS:
            superuser.execute(f"create role {login} login createrole password 'secret'".encode())
        yield
        for role in (*ROLES, *reversed(LOGINS)):
            superuser.execute(f"drop role if exists {role}".encode())


@pytest.fixture
def hosts(server_without_roles: EmbeddedPostgres, two_logins: None, first_database: NewDatabase) -> Hosts:
    """The server, and databases on it."""
    return Hosts(server_without_roles, first_database)


def test_who_may_not_create_roles_is_told_so(hosts: Hosts) -> None:
    dbname = hosts.new_database("first")
    hosts.superuser_runs("alter role first nocreaterole")
    assert "may not create the roles bank_owner, bank_app, bank_reader" in hosts.mend("first", dbname)
    assert migrate(hosts.url("first", dbname)) == MIGRATION_IDS
    assert post(hosts.url("first", dbname)) == 100


def test_who_may_not_create_in_the_database_is_told_so(hosts: Hosts) -> None:
    dbname = hosts.new_database()
    assert f"first may not create a schema in database {dbname}" in hosts.mend("first", dbname)
    assert migrate(hosts.url("first", dbname)) == MIGRATION_IDS
    assert post(hosts.url("first", dbname)) == 100


def test_a_second_role_that_may_create_roles_is_told_that_the_first_has_made_ours(hosts: Hosts) -> None:
    """Up to PostgreSQL 15 CREATEROLE was enough for every role."""
    migrate(hosts.url("first", hosts.new_database("first")))
    dbname = hosts.new_database("second")
    if not hosts.is_old:
        said = hosts.mend("second", dbname)
        assert "second may not take the role bank_owner" in said
        assert "it is no member of bank_app" in said
    assert migrate(hosts.url("second", dbname)) == MIGRATION_IDS
    assert post(hosts.url("second", dbname)) == 100


def test_a_member_of_the_owner_upgrades_what_another_installed(hosts: Hosts) -> None:
    dbname = hosts.new_database()
    hosts.superuser_runs("alter role second nocreaterole")
    migrate(hosts.server.conninfo(dbname))
    hosts.superuser_runs("grant bank_owner to second")
    hosts.superuser_runs("drop function bank.health(); update bank.installation set sql_digest = ''", dbname)
    assert migrate(hosts.url("second", dbname)) == []
    with connect(hosts.url("second", dbname), "bank_owner") as owner:
        assert owner.execute("select migration_id from bank.health()").fetchall() == [
            {"migration_id": MIGRATION_IDS[-1]}
        ]


def test_a_member_of_the_owner_needs_more_to_give_the_app_a_password(hosts: Hosts) -> None:
    dbname = hosts.new_database()
    hosts.superuser_runs("alter role second nocreaterole")
    migrate(hosts.server.conninfo(dbname))
    hosts.superuser_runs("grant bank_owner to second")
    with pytest.raises(PrerequisiteError, match="second may not alter bank_app") as raised:
        migrate(hosts.url("second", dbname), "app-secret")
    hosts.superuser_runs(str(raised.value).rpartition(" by: ")[2])
    assert migrate(hosts.url("second", dbname), "app-secret") == []
    psycopg.connect(hosts.server.conninfo(dbname, "bank_app", "app-secret")).close()


def test_what_the_login_of_the_service_needs_is_asked_before_anything_is_changed(hosts: Hosts) -> None:
    dbname = hosts.new_database()
    migrate(hosts.server.conninfo(dbname))
    hosts.superuser_runs("alter role second nocreaterole; grant bank_owner to second")
    hosts.superuser_runs("update bank.installation set sql_digest = 'older'", dbname)
    with pytest.raises(PrerequisiteError, match="may not make the service's login, for which SERVICE_PASSWORD is set"):
        migrate(hosts.url("second", dbname), service_login=Login("tally", "secret"))
    hosts.superuser_runs("create role tally")
    try:
        with pytest.raises(LoginError, match="tally is a role that pgteller did not make"):
            migrate(hosts.server.conninfo(dbname), service_login=Login("tally", "secret"))
    finally:
        hosts.superuser_runs("drop role tally")
    with connect(hosts.server.conninfo(dbname)) as superuser:
        assert superuser.execute("select sql_digest from bank.installation").fetchall() == [{"sql_digest": "older"}]


def test_all_that_a_further_bank_with_a_login_of_its_service_needs_is_named_at_once(hosts: Hosts) -> None:
    hosts.superuser_runs("alter role second nocreaterole")
    first, dbname = hosts.new_database("first"), hosts.new_database("second")
    migrate(hosts.url("first", first))
    service = Login("tally", "secret")
    with pytest.raises(PrerequisiteError) as raised:
        migrate(hosts.url("second", dbname), "app-secret", service_login=service)
    assert hosts.objects(dbname) == 0
    said = str(raised.value)
    for missing in ("the role bank_owner", "no member of bank_app", "alter bank_app", "make the service's login"):
        assert missing in said
    hosts.superuser_runs(said.rpartition(" by: ")[2])
    try:
        assert migrate(hosts.url("second", dbname), "app-secret", service_login=service) == MIGRATION_IDS
        assert post(hosts.server.conninfo(dbname, "tally", "secret")) == 100
    finally:
        hosts.superuser_runs("drop role if exists tally")


@pytest.mark.parametrize("dbname", ["my bank", "a\"b'c%d?#é/:@\\ $(x)", "select"])
def test_a_database_may_have_any_name(hosts: Hosts, dbname: str) -> None:
    database = sql.Identifier(dbname)
    with connect(hosts.server.conninfo("postgres")) as superuser:
        superuser.execute(sql.SQL("create database {}").format(database))
        try:
            assert "may not create a schema" in hosts.mend("first", dbname)
            url = hosts.url("first", dbname)
            assert migrate(url) == MIGRATION_IDS
            assert migrate(url) == []
            assert post(url) == 100
        finally:
            superuser.execute(sql.SQL("drop database {} with (force)").format(database))


def test_the_banks_of_one_server_share_their_roles_and_the_password_of_the_app(hosts: Hosts) -> None:
    first, second = hosts.new_database(), hosts.new_database()
    for dbname, password in ((first, "one"), (second, "two")):
        assert migrate(hosts.server.conninfo(dbname), password) == MIGRATION_IDS
    for dbname in (first, second):
        with connect(hosts.server.conninfo(dbname, "bank_app", "two")) as app:
            assert app.execute("select * from bank.posting").fetchall() == []
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(hosts.server.conninfo(first, "bank_app", "one"))


def test_a_schema_of_the_same_name_is_left_alone(hosts: Hosts) -> None:
    dbname = hosts.new_database("first")
    hosts.superuser_runs("create schema bank; create table bank.note (text text)", dbname)
    with pytest.raises(PrerequisiteError, match="a schema bank in this database that pgteller did not make"):
        migrate(hosts.url("first", dbname))
    assert hosts.objects(dbname) == 1


def test_a_read_only_database_is_named_with_what_opens_it(hosts: Hosts) -> None:
    dbname = hosts.new_database("first")
    hosts.superuser_runs(f"alter database {dbname} set default_transaction_read_only = on")
    with pytest.raises(PrerequisiteError, match="transactions are read-only here") as raised:
        migrate(hosts.url("first", dbname))
    assert f'alter database "{dbname}" reset default_transaction_read_only' in str(raised.value)
    hosts.superuser_runs(f"alter database {dbname} reset default_transaction_read_only")
    assert migrate(hosts.url("first", dbname)) == MIGRATION_IDS


def test_a_standby_is_named_as_such(server: EmbeddedPostgres, tmp_path: Path) -> None:
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    standby = EmbeddedPostgres(tmp_path / "standby", pgbin=server.binaries)
    try:
        with standby:
            url = standby.conninfo("postgres")
        (tmp_path / "standby" / "cluster").resolve().joinpath("data", "standby.signal").touch()
        with standby, pytest.raises(PrerequisiteError, match="this server is a standby and takes no writes"):
            migrate(url)
    finally:
        standby.destroy()


def test_an_old_postgresql_is_refused_by_its_number() -> None:
    assert version_fault(150_000) is None
    assert version_fault(140_012) == "PostgreSQL 14 is too old: pgteller needs 15 to 18. Upgrade the server first"
