"""Where a host hands out a single login, the application has a second one, as docs/roles.md says it."""

import re
from collections.abc import Iterator

import psycopg
import pytest

from service.embedded import EmbeddedPostgres
from service.installation import ROOT
from service.rights import excess_rights
from tests.cli.conftest import run_command
from tests.migrations.test_migrate import (
    ROLES,
    NewDatabase,
    another_server,
    connect,
    first_database,
    server_without_roles,
)

__all__ = ["another_server", "first_database", "server_without_roles"]

TO_THE_LEDGER = ["update bank.account set balance_minor = 0", "truncate bank.entry", "delete from bank.entry"]


@pytest.fixture
def host_login(server_without_roles: EmbeddedPostgres) -> Iterator[str]:
    """The login that the host hands out; it goes after the database that it owns."""
    with connect(server_without_roles.conninfo("postgres")) as superuser:
        superuser.execute("create role host login createrole createdb password 'secret'")
        yield "host"
        for role in (*ROLES, "shop", "host"):
            superuser.execute(f"drop role if exists {role}".encode())


def test_the_second_login_uses_its_tables_and_the_bank_and_cannot_change_what_is_written(
    server_without_roles: EmbeddedPostgres, host_login: str, first_database: NewDatabase
) -> None:
    grants, use = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "roles.md").read_text(), re.DOTALL)
    host_url = server_without_roles.conninfo(first_database(host_login), host_login, "secret")
    assert run_command(("migrate",), {"DATABASE_URL": host_url}).exit_code == 0
    created = run_command(("logins", "create", "shop"), {"DATABASE_URL": host_url})
    assert created.exit_code == 0, created.output
    shop_url = created.stdout.strip()
    with connect(host_url) as host:
        host.execute("create schema shop")
        host.execute("create table shop.customer (name text)")
        host.execute(grants.encode())
        host.execute("create table shop.receipt (id bigserial, amount_minor bigint)")
        # What makes the second login necessary: each of these would work.
        for statement in TO_THE_LEDGER:
            with host.transaction(force_rollback=True):
                host.execute(statement.encode())
        assert "is a member of bank_owner" in excess_rights(host)
        assert "is a member of bank_owner" in run_command(("status",), {"DATABASE_URL": host_url}).stderr
    with connect(shop_url) as shop:
        assert excess_rights(shop) == []
        shop.execute("insert into shop.customer values ('Ada'), ('Bob')")
        for name in ("Ada", "Bob"):
            shop.execute("select bank.open_account(%s, 'EUR')", [name])
        shop.execute("select bank.credit(2, 1000)")
        shop.execute(use.encode())
        assert shop.execute("select id, amount_minor from shop.receipt").fetchall() == [{"id": 1, "amount_minor": 500}]
        assert shop.execute("select balance_minor from bank.balance(3)").fetchall() == [{"balance_minor": 500}]
        for statement in [*TO_THE_LEDGER, "set role bank_owner", "delete from bank._yoyo_migration"]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                shop.execute(statement.encode())
        assert run_command(("status",), {"DATABASE_URL": shop_url}).stderr == ""
        # All these grants are taken back with it, by a login that is no superuser.
        dropped = run_command(("logins", "drop", "shop"), {"DATABASE_URL": host_url})
        assert (dropped.exit_code, dropped.stderr) == (0, ""), dropped.output
        with pytest.raises(psycopg.OperationalError):
            shop.execute("select 1")
    with connect(host_url) as host:
        assert host.execute("select count(*) as found from shop.receipt").fetchall() == [{"found": 1}]
        assert host.execute("select from pg_roles where rolname = 'shop'").fetchall() == []
