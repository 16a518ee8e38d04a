"""API keys: shown once, known by their digest."""

import hashlib
import os
import subprocess
import sys

import psycopg
import pytest

from service import keys
from service.installation import ROOT
from tests.cli.conftest import Run
from tests.conftest import Bank

AppConnection = psycopg.Connection[dict[str, object]]


def principal(app: AppConnection, key: str) -> dict[str, object]:
    row = app.execute("select * from bank.authenticate(key_digest => %s)", [keys.digest(key)]).fetchone()
    assert row is not None
    return row


def test_keys_are_recognisable_and_never_the_same() -> None:
    made = {keys.make() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith("pgt_") and len(key) == 47 and key.isascii() for key in made)


def test_the_digest_is_sha256() -> None:
    assert keys.digest("pgt_x") == hashlib.sha256(b"pgt_x").digest()


def test_a_created_key_authenticates_with_the_scopes_asked_for(run: Run, app: AppConnection) -> None:
    created = run("keys", "create", "shop", "--scope", "accounts:read", "--scope", "admin")
    assert created.exit_code == 0, created.output
    found = principal(app, created.stdout.strip())
    assert (found["name"], found["scopes"], found["ledger_id"]) == ("shop", ["accounts:read", "admin"], 1)
    assert found["expires_at"] is None


def test_a_key_gets_no_scope_that_overrides_the_rules_unless_told_so(run: Run, app: AppConnection) -> None:
    found = principal(app, run("keys", "create", "shop").stdout.strip())
    assert found["scopes"] == ["accounts:read", "accounts:write", "transactions:write"]


def test_stdout_holds_the_key_alone(run: Run) -> None:
    created = run("keys", "create", "shop", "--expires-in-days", "7")
    assert created.stdout.strip().startswith("pgt_")
    assert len(created.stdout.split()) == 1
    assert "for shop" in created.stderr


def test_the_list_shows_states_and_no_secret(run: Run) -> None:
    key = run("keys", "create", "first").stdout.strip()
    run("keys", "create", "second", "--expires-in-days", "7")
    run("keys", "revoke", "1")
    listed = run("keys", "list")
    _, first, second = listed.stdout.splitlines()
    assert "first" in first
    assert "revoked" in first
    assert "valid until" in second
    assert key not in listed.stdout
    assert keys.digest(key).hex() not in listed.stdout


def test_a_revoked_key_no_longer_authenticates(run: Run, app: AppConnection) -> None:
    key = run("keys", "create", "shop").stdout.strip()
    assert run("keys", "revoke", "1").exit_code == 0
    assert principal(app, key)["api_key_id"] is None
    assert run("keys", "revoke", "1").exit_code == 0  # a second time changes nothing


def test_revoking_an_unknown_key_fails_in_one_line(run: Run) -> None:
    revoked = run("keys", "revoke", "99")
    assert revoked.exit_code == 1
    assert revoked.stderr.splitlines() == ["Error: there is no key 99: see `pgteller keys list`"]


@pytest.mark.parametrize(
    "arguments",
    [
        (" ",),
        ("x" * 101,),
        ("shop", "--scope", "accounts:delete"),
        ("shop", "--expires-in-days", "0"),
        ("shop", "--ledger", "0"),
        ("shop", "--ledger", "99999999999999999999"),
        (),
    ],
)
def test_a_bad_command_line_exits_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    assert run("keys", "create", *arguments).exit_code == 2


@pytest.mark.parametrize("number", ["0", "-1", "99999999999999999999"])
def test_a_number_that_no_key_can_have_is_a_mistake_of_the_command_line(run: Run, number: str) -> None:
    assert run("keys", "revoke", "--", number).exit_code == 2
    assert run("keys", "revoke", str(2**63 - 1)).stderr.startswith(f"Error: there is no key {2**63 - 1}:")
    assert run("keys", "create", "shop", "--ledger", str(2**63 - 1)).stderr.startswith("Error: there is no ledger")


@pytest.mark.parametrize("output", [">/dev/full", "2>/dev/full", ">&-"])
def test_a_key_that_could_not_be_printed_is_not_valid(run: Run, bank: Bank, output: str) -> None:
    command = subprocess.run(
        ["/bin/sh", "-c", f"exec {sys.executable} -m service.cli keys create shop {output}"],
        env={**os.environ, "DATABASE_URL": bank.owner_url},
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert command.returncode == 1
    if "2>" not in output:
        why = "stdout is closed" if output == ">&-" else "the key could not be printed, and is revoked again"
        assert command.stderr.splitlines()[-1].startswith(f"Error: {why}")
    assert " valid " not in run("keys", "list").stdout


def test_an_unknown_ledger_is_refused(run: Run) -> None:
    created = run("keys", "create", "shop", "--ledger", "7")
    assert (created.exit_code, created.stderr) == (1, "Error: there is no ledger 7\n")
    assert created.stdout == ""
