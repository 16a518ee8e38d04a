"""The commands about the database as a whole, on a DATABASE_URL and on the bank of this machine."""

from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from service.embedded import EmbeddedPostgres
from service.installation import last_migration_id
from tests.cli.conftest import Run, local_environment, run_command
from tests.conftest import Bank

OwnerConnection = psycopg.Connection[dict[str, object]]

COMMANDS = [
    ("serve",),
    ("migrate",),
    ("status",),
    ("verify",),
    ("correct-times",),
    ("import",),
    ("keys",),
    ("keys", "create"),
    ("keys", "list"),
    ("keys", "revoke"),
    ("logins",),
    ("logins", "create"),
    ("logins", "list"),
    ("logins", "rotate"),
    ("logins", "drop"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: tuple[str, ...]) -> None:
    shown = run_command((*command, "--help"), {})
    assert shown.exit_code == 0
    assert command in (("keys",), ("logins",)) or "Example: " in shown.stdout


def test_status_of_a_migrated_database_is_current(run: Run, bank: Bank) -> None:
    shown = run("status")
    assert shown.exit_code == 0, shown.output
    assert f"current, {last_migration_id()}" in shown.stdout
    assert "app-password" not in shown.output


def test_status_and_serve_of_an_empty_database_say_what_to_run(run: Run, server: EmbeddedPostgres) -> None:
    empty = {
        "DATABASE_URL": server.conninfo("postgres"),
        "DATABASE_OWNER_URL": server.conninfo("postgres"),
        "PORT": "0",
    }
    for command in ("status", "serve"):
        shown = run(command, **empty)
        assert shown.exit_code == 1
        assert "not installed" in shown.output
        assert "`pgteller migrate`" in shown.stderr
        assert len(shown.stderr.splitlines()) == 1


def test_status_fails_when_functions_are_of_another_version(run: Run, owner: OwnerConnection) -> None:
    owner.execute("update bank.installation set sql_digest = 'another'")
    owner.execute("delete from bank.installed_version")
    for command in ("status", "serve"):
        shown = run(command, PORT="0")
        assert shown.exit_code == 1
        assert "its functions are of another version: run `pgteller migrate`" in shown.stderr
    assert run("migrate").exit_code == 0
    assert run("status").exit_code == 0


def install_a_newer_version(owner: OwnerConnection) -> None:
    """What its `migrate` would leave behind."""
    owner.execute("update bank.installation set (sql_digest, migration_id) = ('later', '9999.later')")
    owner.execute("insert into bank.installed_version values (2, 'later', '9999.later', '7.7.7')")


@pytest.fixture
def mark_of_newer_version(bank: Bank) -> None:
    with psycopg.connect(bank.owner_url, autocommit=True) as login:
        login.execute("insert into bank._yoyo_migration values ('a hash that we do not know', '9999.later', now())")


@pytest.mark.usefixtures("mark_of_newer_version")
def test_a_version_that_works_on_a_newer_database_says_so_and_changes_nothing(run: Run, owner: OwnerConnection) -> None:
    install_a_newer_version(owner)
    shown = run("status")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "a newer version, 7.7.7 with 9999.later; this one works on it" in shown.stdout
    before = owner.execute("select i.*, i.xmin::text from bank.installation as i").fetchall()
    shown = run("migrate")
    assert shown.exit_code == 0
    assert "A newer version is installed, 7.7.7, with 9999.later. This version works on it" in shown.stderr
    assert owner.execute("select i.*, i.xmin::text from bank.installation as i").fetchall() == before


@pytest.mark.usefixtures("mark_of_newer_version")
@pytest.mark.parametrize("command", ["status", "serve", "migrate"])
def test_a_version_that_is_too_old_for_the_database_says_which_one_to_install(
    run: Run, owner: OwnerConnection, command: str
) -> None:
    install_a_newer_version(owner)
    owner.execute("delete from bank.installed_version where installation_number = 1")
    shown = run(command, PORT="0")
    assert shown.exit_code == 1
    (line,) = shown.stderr.splitlines()
    assert "too old for the database, whose last migration is 9999.later: install version 7.7.7" in line


def test_migrate_brings_an_empty_database_up_and_does_nothing_more_the_second_time(run: Run, bank: Bank) -> None:
    dbname = f"{bank.dbname}_empty"
    with psycopg.connect(bank.server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(dbname)))
        try:
            url = bank.server.conninfo(dbname)
            first = run("migrate", DATABASE_OWNER_URL=url)
            assert first.exit_code == 0, first.output
            assert f"applied {last_migration_id()}" in first.stdout
            second = run("migrate", DATABASE_OWNER_URL=url)
            assert second.exit_code == 0
            assert "applied" not in second.stdout
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(dbname)))


@pytest.mark.parametrize("command", ["status", "verify", "migrate", "serve", "correct-times"])
def test_an_unreachable_database_is_one_line_on_stderr_without_its_password(run: Run, command: str) -> None:
    url = "postgresql://somebody:secret@127.0.0.1:1/bank"
    shown = run(command, DATABASE_URL=url, DATABASE_OWNER_URL=url, PORT="0")
    assert shown.exit_code == 1
    assert len(shown.stderr.splitlines()) == 1
    assert "Connection refused" in shown.stderr
    assert "secret" not in shown.output


def test_the_bank_of_this_machine_must_exist_before_it_is_asked(tmp_path: Path) -> None:
    shown = run_command(("verify",), local_environment(tmp_path / "nothing"))
    assert shown.exit_code == 1
    assert "`pgteller serve` makes one" in shown.stderr
    assert not (tmp_path / "nothing" / "postgresql" / "cluster").exists()


def test_commands_start_the_bank_of_this_machine_for_the_duration(home: Path) -> None:
    environment = local_environment(home)
    assert run_command(("migrate",), environment).exit_code == 0
    assert run_command(("verify",), environment).exit_code == 0
    assert run_command(("keys", "create", "shop"), environment).exit_code == 0
    assert "shop" in run_command(("keys", "list"), environment).stdout
    assert not (home / "postgresql" / "cluster" / "data" / "postmaster.pid").exists()
