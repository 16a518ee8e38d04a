"""A bank that was restored without its owner, or where its roles are missing, is taken over with its data."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from service.adopt import adopt
from service.embedded import EmbeddedPostgres
from service.migrate import migrate
from service.prerequisites import PrerequisiteError
from tests.cli.conftest import run_command
from tests.conftest import Bank
from tests.migrations.test_migrate import (
    ROLES,
    NewDatabase,
    another_server,
    catalog,
    connect,
    first_database,
    new_database,
    post,
    server_without_roles,
)

__all__ = ["another_server", "first_database", "new_database", "server_without_roles"]

REMEDY = "`pgteller migrate --adopt` takes it over"
ENTRIES = "select * from bank.entry order by account_id, version"


@pytest.fixture
def dump(bank: Bank, tmp_path: Path) -> Path:
    """A dump of a bank with a posting in it."""
    if not (bank.server.binaries / "pg_dump").exists():
        pytest.skip(f"there is no pg_dump in {bank.server.binaries}: nothing was dumped, restored or adopted")
    post(bank.owner_url)
    file = tmp_path / "bank.dump"
    subprocess.run([bank.server.binaries / "pg_dump", "-Fc", "-f", file, bank.owner_url], check=True)
    return file


@pytest.fixture
def restorer(server_without_roles: EmbeddedPostgres) -> Iterator[str]:
    """A login that may create roles and is no superuser; it goes after the databases that it owns."""
    with connect(server_without_roles.conninfo("postgres")) as superuser:
        superuser.execute("create role restorer login createrole password 'secret'")
        superuser.execute("create role bystander login createrole password 'secret'")
        yield "restorer"
        for role in (*ROLES, "bystander", "restorer"):
            superuser.execute(f"drop role if exists {role}".encode())


def restore(server: EmbeddedPostgres, url: str, dump: Path, *options: str, check: bool = False) -> None:
    """Restore; it goes on after errors, such as a role that is missing, as people do."""
    command: list[str | Path] = [server.binaries / "pg_restore", *options, "-d", url, dump]
    subprocess.run(command, capture_output=True, check=check)


def entries(url: str) -> list[dict[str, Any]]:
    with connect(url) as connection:
        connection.execute("set role bank_owner")
        return connection.execute(ENTRIES).fetchall()


def rights(url: str) -> dict[tuple[str, str], str]:
    """Who owns what, and who may what. (Constraints, and the numbers of enums, are written anew by a restore.)"""
    kinds = ("relation", "function", "schema", "default rights")
    return {key: text for key, text in catalog(url).items() if key[0] in kinds}


def test_a_bank_restored_without_owner_and_rights_is_refused_then_adopted(
    bank: Bank, dump: Path, new_database: NewDatabase
) -> None:
    url = bank.server.conninfo(new_database())
    restore(bank.server, url, dump, "--no-owner", "--no-acl", check=True)
    with pytest.raises(PrerequisiteError, match="belong to postgres, not to bank_owner") as raised:
        migrate(url)
    assert REMEDY in str(raised.value)
    adopted = run_command(("migrate", "--adopt"), {"DATABASE_OWNER_URL": url})
    assert adopted.exit_code == 0, adopted.output
    assert "they belong to bank_owner now" in adopted.stdout
    assert "`pgteller verify`" in adopted.stdout
    assert rights(url) == rights(bank.owner_url)
    assert catalog(url).keys() == catalog(bank.owner_url).keys()
    assert entries(url) == entries(bank.owner_url)
    assert post(url) == 100
    assert migrate(url) == []
    again = run_command(("migrate", "--adopt"), {"DATABASE_OWNER_URL": url})
    assert "nothing to adopt" in again.stdout


def test_an_adoption_gives_up_a_lock_that_somebody_keeps_and_has_changed_nothing(
    bank: Bank, dump: Path, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.adopt._LOCK_TIMEOUT", "200ms")
    url = bank.server.conninfo(new_database())
    restore(bank.server, url, dump, "--no-owner", "--no-acl", check=True)
    before = catalog(url)
    with connect(url) as reader, ThreadPoolExecutor(1) as executor:
        reader.autocommit = False
        reader.execute("select from bank.entry")
        try:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                executor.submit(adopt, url).result(20)
        finally:
            reader.rollback()
    assert catalog(url) == before
    assert adopt(url) > 100


@pytest.fixture(params=["postgres", "restorer"])
def elsewhere(
    request: pytest.FixtureRequest, server_without_roles: EmbeddedPostgres, restorer: str, first_database: NewDatabase
) -> str:
    """The URL of an empty database on a server without our roles, of a superuser and of one who is none."""
    login = str(request.param)
    password = "secret" if login == restorer else None
    return server_without_roles.conninfo(first_database(login), login, password)


@pytest.mark.parametrize("options", [(), ("--no-owner", "--no-acl"), ("--no-owner",)], ids=" ".join)
def test_a_bank_restored_on_a_server_without_its_roles_is_refused_then_adopted(
    bank: Bank, dump: Path, elsewhere: str, options: tuple[str, ...]
) -> None:
    url = elsewhere
    login = conninfo_to_dict(url)["user"]
    restore(bank.server, url, dump, *options)
    with pytest.raises(PrerequisiteError, match=f"belong to {login}, not to bank_owner"):
        migrate(url)
    assert adopt(url) > 100
    assert migrate(url) == []
    assert rights(url) == rights(bank.owner_url)
    assert catalog(url).keys() == catalog(bank.owner_url).keys()
    assert entries(url) == entries(bank.owner_url)
    assert post(url) == 100


def test_objects_of_a_role_that_we_may_not_act_for_are_named_and_nothing_is_changed(
    bank: Bank,
    dump: Path,
    server_without_roles: EmbeddedPostgres,
    restorer: str,
    first_database: NewDatabase,
) -> None:
    dbname = first_database("restorer")
    url = server_without_roles.conninfo(dbname, restorer, "secret")
    restore(server_without_roles, url, dump, "--no-owner", "--no-acl")
    with connect(server_without_roles.conninfo(dbname)) as superuser:
        superuser.execute("grant usage, create on schema bank to bystander; alter table bank.entry owner to bystander")
        before = catalog(server_without_roles.conninfo(dbname))
        with pytest.raises(PrerequisiteError) as raised:
            adopt(url)
        message = str(raised.value)
        assert "1 objects of schema bank, such as table bank.entry, belong to bystander" in message
        assert catalog(server_without_roles.conninfo(dbname)) == before
        assert superuser.execute("select from pg_roles where rolname = 'bank_owner'").fetchall() == []
        superuser.execute(message.rpartition("superuser, or ")[2].encode())
        assert adopt(url) > 100
        assert migrate(url) == []
        superuser.execute("revoke bystander from restorer; drop owned by bystander")
    assert entries(url) == entries(bank.owner_url)


def test_what_a_superuser_restored_is_adopted_by_one_and_nobody_is_made_a_superuser_for_it(
    bank: Bank,
    dump: Path,
    server_without_roles: EmbeddedPostgres,
    restorer: str,
    first_database: NewDatabase,
) -> None:
    dbname = first_database("restorer")
    url, as_superuser = server_without_roles.conninfo(dbname, restorer, "secret"), server_without_roles.conninfo(dbname)
    restore(server_without_roles, as_superuser, dump, "--no-owner", "--no-acl")
    with pytest.raises(PrerequisiteError, match="belong to postgres") as raised:
        adopt(url)
    said = str(raised.value)
    assert 'grant "postgres"' not in said
    assert "let DATABASE_OWNER_URL be a superuser's for `pgteller migrate --adopt`, once" in said
    assert run_command(("migrate", "--adopt"), {"DATABASE_OWNER_URL": as_superuser}).exit_code == 0
    with connect(as_superuser) as superuser:
        superuser.execute(said.rpartition("after: ")[2].encode())
        superuser.execute("update bank.installation set sql_digest = ''")
    assert migrate(url) == []
    assert entries(url) == entries(bank.owner_url)


def test_a_database_without_a_bank_has_nothing_to_adopt(server: EmbeddedPostgres, new_database: NewDatabase) -> None:
    with pytest.raises(PrerequisiteError, match="there is no bank in database"):
        adopt(server.conninfo(new_database()))


@pytest.mark.parametrize("made_by_hand", [False, True], ids=["with the dump", "by hand"])
def test_a_dump_of_the_schema_alone_is_a_complete_bank(
    bank: Bank, dump: Path, new_database: NewDatabase, made_by_hand: bool
) -> None:
    url = bank.server.conninfo(new_database())
    if made_by_hand:  # pg_restore grants nothing on the schema then
        with psycopg.connect(url) as connection:
            connection.execute("create schema bank authorization bank_owner")
        restore(bank.server, url, dump, "--schema=bank", check=True)
    else:
        pg_dump = bank.server.binaries / "pg_dump"
        subprocess.run([pg_dump, "-Fc", "--schema=bank", "-f", dump, bank.owner_url], check=True)
        restore(bank.server, url, dump, check=True)
    assert migrate(url) == []
    assert entries(url) == entries(bank.owner_url)
    assert post(url) == 100
