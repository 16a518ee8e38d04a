"""`pgteller verify`: what it prints, how it is stopped, and how it goes on."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psycopg
import pytest

from service.installation import ROOT
from tests.cli.conftest import Run
from tests.conftest import Bank

OwnerConnection = psycopg.Connection[dict[str, object]]
DEADLINE_SECONDS = 20
TOTAL = r"{} accounts, {} entries and {} transactions checked in \d+\.\d s"


@pytest.fixture
def owner(bank: Bank) -> Iterator[OwnerConnection]:
    """A bank with Ada, who has 5.00."""
    with psycopg.connect(bank.owner_url, autocommit=True) as connection:
        connection.execute("select bank.open_account('Ada', 'EUR', external_id => 'ada'), bank.credit(2, 500)")
        yield connection  # type: ignore[misc]


@pytest.mark.usefixtures("owner")
def test_a_sound_ledger_is_counted_and_has_no_violations(run: Run) -> None:
    shown = run("verify")
    assert shown.exit_code == 0, shown.output
    assert re.fullmatch(TOTAL.format(2, 2, 1) + r"\nNo violations\.\n", shown.stdout)
    assert run("verify", "--whole").stdout == "No violations.\n"


@pytest.mark.parametrize("options", [(), ("--whole",), ("--ledger", "1")])
def test_each_violation_is_a_line_and_the_command_fails(
    run: Run, owner: OwnerConnection, options: tuple[str, ...]
) -> None:
    owner.execute("update bank.account set balance_minor = 7 where external_id = 'ada'")
    shown = run("verify", *options)
    assert shown.exit_code == 1
    assert "account_differs_from_last_entry: ledger_id 1, account_id 2" in shown.stdout
    assert "No violations" not in shown.stdout
    assert shown.stderr == "Error: violations: 1\n"


def test_violations_beyond_a_hundred_are_counted_and_not_shown(run: Run, owner: OwnerConnection) -> None:
    owner.execute("select bank.open_account('Eve', 'EUR') from generate_series(1, 120)")
    owner.execute("update bank.account set version = 7 where holder_name = 'Eve'")
    for options in ((), ("--whole",)):
        shown = run("verify", *options)
        assert shown.stderr == "Error: violations: 120, the first 100 shown\n"
        assert shown.stdout.count("account_differs_from_last_entry") == 100


@pytest.mark.parametrize("options", [(), ("--whole",)])
def test_a_ledger_that_does_not_exist_is_an_error_that_says_so(run: Run, options: tuple[str, ...]) -> None:
    shown = run("verify", "--ledger", "99", *options)
    assert (shown.exit_code, shown.stdout, shown.stderr) == (1, "", "Error: there is no ledger 99\n")


def test_one_ledger_is_silent_about_another(run: Run, owner: OwnerConnection) -> None:
    owner.execute("select bank.create_ledger('Branch')")
    owner.execute("update bank.account set balance_minor = 7 where external_id = 'ada'")
    assert run("verify", "--ledger", "2").exit_code == 0
    assert run("verify", "--ledger", "1").exit_code == 1
    assert run("verify").exit_code == 1


@pytest.mark.parametrize(
    "place", ["nonsense", "entries", "entries:x", "accounts:1:99999999999999999999", "accounts:99999999999999999999"]
)
def test_a_place_that_nobody_told_is_a_mistake_of_the_command_line(
    run: Run, owner: OwnerConnection, place: str
) -> None:
    for ledger in ((), ("--ledger", "1")):
        shown = run("verify", *ledger, "--from", place)
        assert shown.exit_code == 2
        assert f"{place} is not a place printed by `pgteller verify`" in shown.stderr


def test_a_place_that_does_not_go_with_the_other_options_is_a_mistake_of_the_command_line(run: Run) -> None:
    shown = run("verify", "--ledger", "1", "--from", "accounts:2:1")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "accounts:2:1 is in another ledger" in shown.stderr
    shown = run("verify", "--whole", "--from", "accounts:1")
    assert shown.exit_code == 2
    assert "--from cannot be used with --whole" in shown.stderr


@pytest.mark.parametrize("place", ["accounts:9", "entries:9:2", "transactions:9", "openings:9:key"])
def test_a_place_in_a_ledger_that_does_not_exist_is_an_error_that_says_so(run: Run, place: str) -> None:
    shown = run("verify", "--from", place)
    assert (shown.exit_code, shown.stdout, shown.stderr) == (1, "", "Error: there is no ledger 9\n")


@pytest.mark.parametrize("number", ["0", "-1", "99999999999999999999"])
def test_a_number_that_no_ledger_can_have_is_a_mistake_of_the_command_line(run: Run, number: str) -> None:
    shown = run("verify", "--ledger", number)
    assert shown.exit_code == 2
    assert f"{number} is not in the range" in shown.stderr
    assert run("verify", "--ledger", str(2**63 - 1)).stderr == f"Error: there is no ledger {2**63 - 1}\n"


@pytest.mark.parametrize(("arguments", "exit_code"), [("", 0), ("--ledger 99", 1), ("--ledger 0", 2)])
def test_a_closed_stderr_changes_nothing_else(bank: Bank, arguments: str, exit_code: int) -> None:
    command = subprocess.run(
        ["/bin/sh", "-c", f"exec {sys.executable} -m service.cli verify {arguments} 2>&-"],
        env={**os.environ, "DATABASE_URL": bank.app_url},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert command.returncode == exit_code
    assert ("No violations." in command.stdout) == (exit_code == 0)


def test_from_a_place_on_nothing_before_it_is_checked(run: Run, owner: OwnerConnection) -> None:
    owner.execute("update bank.account set balance_minor = 7 where external_id = 'ada'")
    shown = run("verify", "--from", "entries:1:2:0")
    assert shown.exit_code == 0, shown.output
    assert re.fullmatch(TOTAL.format(0, 2, 1) + r", from entries:1:2:0 on\nNo violations\.\n", shown.stdout)


def test_ctrl_c_says_where_to_go_on_and_from_there_the_rest_is_checked(
    bank: Bank, run: Run, owner: OwnerConnection
) -> None:
    """A table that somebody has locked makes it wait: there it is stopped."""
    with psycopg.connect(bank.owner_url) as holder:
        holder.execute("lock table bank.opening in access exclusive mode")
        command = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "verify", "--ledger", "1"],
            env={**os.environ, "DATABASE_URL": bank.app_url},
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        blocked = "select from pg_stat_activity where datname = current_database() and %s = any(pg_blocking_pids(pid))"
        until = time.monotonic() + DEADLINE_SECONDS
        while not owner.execute(blocked, [holder.info.backend_pid]).fetchall():
            assert time.monotonic() < until
            time.sleep(0.01)
        command.send_signal(signal.SIGINT)
        stdout, stderr = command.communicate(timeout=DEADLINE_SECONDS)
    assert (command.returncode, stdout) == (1, "")
    told = re.fullmatch(r"Error: stopped\. Go on with: pgteller (verify --ledger 1 --from \S+)\n", stderr)
    assert told is not None, stderr
    shown = run(*told[1].split())
    assert shown.exit_code == 0, shown.output


def test_a_connection_that_breaks_says_where_to_go_on(bank: Bank, owner: OwnerConnection) -> None:
    with psycopg.connect(bank.owner_url) as holder:
        holder.execute("lock table bank.opening in access exclusive mode")
        command = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "verify"],
            env={**os.environ, "DATABASE_URL": bank.app_url},
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        ended = (
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and %s = any(pg_blocking_pids(pid))"
        )
        until = time.monotonic() + DEADLINE_SECONDS
        while not owner.execute(ended, [holder.info.backend_pid]).fetchall():
            assert time.monotonic() < until
            time.sleep(0.01)
        _, stderr = command.communicate(timeout=DEADLINE_SECONDS)
    assert command.returncode == 1
    assert len(stderr.splitlines()) == 1
    assert "(go on with: pgteller verify --from transactions:1)" in stderr


def test_a_terminal_shows_a_bar_and_a_file_gets_the_violations(bank: Bank, owner: OwnerConnection) -> None:
    owner.execute("update bank.account set balance_minor = 7 where external_id = 'ada'")
    terminal, end = pty.openpty()
    command = subprocess.run(
        [sys.executable, "-m", "service.cli", "verify"],
        env={**os.environ, "DATABASE_URL": bank.app_url, "TERM": "xterm"},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=end,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    os.close(end)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert command.returncode == 1
    assert "account_differs_from_last_entry" in command.stdout
    assert "account_differs" not in shown
    assert "verifying" in shown
