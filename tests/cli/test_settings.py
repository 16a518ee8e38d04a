"""Settings that are not valid are refused by name, however the service starts; so are homes that cannot be used."""

import re
import subprocess
from pathlib import Path

import pytest

from service.config import DECLARED, LOG_LEVELS, Settings, Whole
from service.http_service import WORKING_DIRECTORY, gunicorn_command
from tests.cli.conftest import Run, local_environment, run_command
from tests.cli.test_serve import run_serve
from tests.faults.disk import small_disk

WHOLE = {setting.variable: setting.kind for setting in DECLARED.values() if isinstance(setting.kind, Whole)}
URL = "postgresql://bank_app@127.0.0.1:1/bank"


@pytest.mark.parametrize(
    "text", ["eighty", "٣", "1_000", " 8 ", "1e3", "+8", "0x10", "8.0", "NaN", "inf", "8\n", "9" * 5000]
)
@pytest.mark.parametrize("variable", WHOLE)
def test_a_number_is_written_in_plain_digits(variable: str, text: str) -> None:
    shown = run_command(("status",), {variable: text})
    assert shown.exit_code == 2
    [line] = shown.stderr.splitlines()
    assert line.startswith(f"Error: {variable} is {text[:60]!r}"[:70])
    assert line.endswith(f", which is not valid: allowed is {WHOLE[variable].allowed}")
    assert len(line) < 200


@pytest.mark.parametrize("variable", WHOLE)
def test_a_number_is_within_its_bounds(variable: str) -> None:
    kind = WHOLE[variable]
    for number in (kind.lowest - 1, kind.highest + 1):
        shown = run_command(("status",), {variable: str(number)})
        assert shown.exit_code == 2
        assert shown.stderr == f"Error: {variable} is '{number}', which is not valid: allowed is {kind.allowed}\n"
    for number in (kind.lowest, kind.highest):
        with_others = {"REQUEST_TIMEOUT_SECONDS": "3600"} if variable == "LOCK_TIMEOUT_MS" else {"LOCK_TIMEOUT_MS": "0"}
        Settings.from_environment({**with_others, variable: str(number)})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LOG_LEVEL", "foo"),
        ("LOG_LEVEL", "Infó"),
        ("HOST", "[::1]"),
        ("HOST", "http://127.0.0.1"),
        ("HOST", "127.0.0.1:8000"),
        ("HOST", "a b"),
        ("PGTELLER_HOME", "bank"),
        ("PGTELLER_HOME", "~/bank"),
        ("PGBIN", "bin"),
    ],
)
def test_what_is_not_a_number_is_refused_with_what_is_allowed(variable: str, value: str) -> None:
    shown = run_command(("status",), {variable: value})
    assert shown.exit_code == 2
    assert re.fullmatch(
        f"Error: {variable} is {re.escape(repr(value))}, which is not valid: allowed is .+\n", shown.stderr
    )


@pytest.mark.parametrize("variable", [setting.variable for setting in DECLARED.values()])
def test_an_empty_setting_is_not_taken_for_the_default(variable: str) -> None:
    """An empty DATABASE_URL would be another bank: the one of this machine."""
    shown = run_command(("status",), {variable: ""})
    assert shown.exit_code == 2
    assert shown.stderr == f"Error: {variable} is empty, which is not valid: unset it for the default\n"


def test_valid_settings_are_taken() -> None:
    for host in ("127.0.0.1", "::1", "::", "0.0.0.0", "localhost", "fe80::1%lo", "bank.example", "db_1"):  # noqa: S104
        assert Settings.from_environment({"HOST": host}).host == host
    for level in LOG_LEVELS:
        assert Settings.from_environment({"LOG_LEVEL": level.upper()}).log_level == level


def test_settings_that_contradict_each_other_are_named_both(run: Run, tmp_path: Path) -> None:
    shown = run("status", LOCK_TIMEOUT_MS="5000")
    assert shown.exit_code == 2
    assert "LOCK_TIMEOUT_MS is 5000" in shown.stderr
    assert "REQUEST_TIMEOUT_SECONDS, 10" in shown.stderr
    shown = run_command(("serve",), {"DATABASE_OWNER_URL": URL, "PGTELLER_HOME": str(tmp_path)})
    assert shown.exit_code == 2
    assert "DATABASE_OWNER_URL is set and DATABASE_URL is not" in shown.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_is_not_known_is_not_an_error(run: Run) -> None:
    assert run("status", PGTELLER_COLOUR="red", LOCK_TIMEOUT_SECONDS="x").exit_code == 0


def test_the_owners_settings_are_not_handed_on_to_the_service() -> None:
    given = {"DATABASE_URL": URL, "DATABASE_OWNER_URL": URL, "BANK_APP_PASSWORD": "x", "PATH": "/bin", "PORT": "9"}
    handed_on = Settings.from_environment(given).to_environment(given)
    assert handed_on.keys() >= {"DATABASE_URL", "PATH", "PORT"}
    assert not handed_on.keys() & {"DATABASE_OWNER_URL", "BANK_APP_PASSWORD"}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"DATABASE_URL": URL, "WEB_CONCURRENCY": "0"}, "WEB_CONCURRENCY is '0', which is not valid"),
        ({"DATABASE_URL": URL, "PORT": "80000"}, "PORT is '80000', which is not valid"),
        ({"DATABASE_URL": URL, "LOG_LEVEL": "foo"}, "LOG_LEVEL is 'foo', which is not valid"),
        ({}, "DATABASE_URL is not set"),
    ],
)
def test_gunicorn_started_without_the_command_refuses_them_too(settings: dict[str, str], complaint: str) -> None:
    ended = subprocess.run(
        gunicorn_command(),
        cwd=WORKING_DIRECTORY,
        env=settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"Error: {complaint}")


def test_the_help_of_serve_lists_the_settings_that_it_reads() -> None:
    shown = run_command(("serve", "--help"), {}).stdout
    words = " ".join(shown.split())
    for name, setting in DECLARED.items():
        assert (setting.variable in re.findall(r"(?m)^  ([A-Z_]+)", shown)) == ("serve" in setting.used_by), name
        if "serve" in setting.used_by:
            assert f"{setting.meaning}. Allowed: {setting.kind.allowed}. Default: {setting.default}" in words


def test_a_url_without_its_beginning_is_told_how_one_begins() -> None:
    refused = run_command(("status",), {"DATABASE_URL": "user:secret@localhost/bank"})
    assert refused.exit_code == 2
    assert "a URL begins with postgresql://" in refused.stderr


# ---- PGTELLER_HOME -----------------------------------------------------------------------------------------


def is_refused(environment: dict[str, str], *complaints: str) -> None:
    ended = run_serve(environment)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    for complaint in complaints:
        assert complaint in line


def test_a_home_that_is_a_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.touch()
    is_refused(local_environment(home), f"PGTELLER_HOME, {home}, cannot be used", "set PGTELLER_HOME to another folder")


def test_a_home_in_a_folder_that_takes_no_files_is_named_with_the_remedy() -> None:
    home = Path("/proc/pgteller")
    is_refused(local_environment(home), f"PGTELLER_HOME, {home}, cannot be used", "set PGTELLER_HOME to another folder")


def test_a_home_with_a_name_that_is_too_long_is_named_with_the_remedy(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 300)
    is_refused(local_environment(home), f"PGTELLER_HOME, {home}, cannot be used", "File name too long")


def test_a_home_on_a_full_disk_is_named_with_the_remedy() -> None:
    with small_disk() as disk:
        if disk is None:
            pytest.skip("no disk can be made full here")
        (disk.path / "file").write_bytes(bytes(4096))
        disk.fill()
        ended = run_serve(local_environment(disk.path / "home"))
        assert ended.returncode == 1
        assert f"PGTELLER_HOME, {disk.path}/home" in ended.stderr
        assert "ake room there, or set PGTELLER_HOME to another folder" in ended.stderr
