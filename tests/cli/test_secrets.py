"""No secret of the settings is shown by a command, a log or an answer, whatever libpq makes of the URL it stands in."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest
from psycopg.conninfo import conninfo_to_dict

from service.config import DECLARED, SettingError, Settings
from service.database_url import secrets_of, shown, without
from service.http_service import WORKING_DIRECTORY, gunicorn_command
from tests.cli.conftest import run_command
from tests.cli.test_serve import SERVE, wait_until
from tests.conftest import APP_PASSWORD, Bank
from tests.http_server import HttpServer

SECRET = "S3cretOfTheTests"
COMMANDS = [("status",), ("migrate",), ("verify",), ("verify", "--whole"), ("correct-times",), ("keys", "list")]

# What libpq can read, with everything that it takes a secret from. PLACE stands for host and port.
VALID = [
    f"postgresql://somebody:{SECRET}@PLACE/bank",
    f"postgres://somebody:{SECRET}@PLACE/bank",
    f"postgresql://somebody@PLACE/bank?password={SECRET}",
    f"postgresql://somebody:other@PLACE/bank?password={SECRET}",
    f"postgresql://somebody:a#{SECRET}@PLACE/bank",
    f"postgresql://somebody:a?{SECRET}@PLACE/bank",
    f"postgresql://somebody:a+{SECRET}%2F%40%25@PLACE/bank",
    f"postgresql://somebody:{SECRET}@PLACE,PLACE/bank",
    f"postgresql://somebody:{SECRET}@PLACE/bank?target_session_attrs=read-write&application_name=x",
    f"postgresql://somebody@PLACE/bank?sslpassword={SECRET}",
    f"postgresql://somebody@PLACE/bank?sslkey=/{SECRET}&passfile=/{SECRET}",
    f"host=127.0.0.1 port=1 user=somebody password={SECRET}",
    f"host=127.0.0.1 port=1 user=somebody password='{SECRET} \\' with blanks'",
    f"hostaddr=127.0.0.1 port=1 dbname=bank password = {SECRET}",
]

# What it cannot read, or reads as something that nobody means.
INVALID = [
    SECRET,
    f"{SECRET}@127.0.0.1",
    f"POSTGRESQL://somebody:{SECRET}@127.0.0.1/bank",
    f"postgresql+psycopg://somebody:{SECRET}@127.0.0.1/bank",
    f"mysql://somebody:{SECRET}@127.0.0.1/bank",
    f"postgresql:/somebody:{SECRET}@127.0.0.1/bank",
    f" postgresql://somebody:{SECRET}@127.0.0.1/bank",
    f"postgresql://somebody:{SECRET}%zz@127.0.0.1/bank",
    f"postgresql://somebody:%00{SECRET}@127.0.0.1/bank",
    f"postgresql://somebody:a {SECRET}@127.0.0.1/bank",
    f"postgresql://somebody:a/{SECRET}@127.0.0.1/bank",
    f"postgresql://somebody:a@{SECRET}@127.0.0.1/bank",
    f"postgresql://somebody:1/{SECRET}?user=x@127.0.0.1/bank",
    f"postgresql://[::1:{SECRET}/bank",
    f"postgresql://somebody@127.0.0.1:{SECRET}/bank",
    f"postgresql://somebody@127.0.0.1/bank?{SECRET}=1",
    f"postgresql://somebody@127.0.0.1/bank?{SECRET}",
    f"postgresql://somebody@127.0.0.1/bank?password={SECRET}=1",
    f"host=127.0.0.1 password=a {SECRET}",
    f"host=127.0.0.1 password='{SECRET}",
    f"host=127.0.0.1 {SECRET}=1",
    f"password={SECRET} port={SECRET}",
    f"postgresql://somebody:{SECRET}\udcff@127.0.0.1/bank",
]

UNREACHABLE = "127.0.0.1:1"


def at(url: str) -> str:
    return url.replace("PLACE", UNREACHABLE)


def both(url: str, **more: str) -> dict[str, str]:
    return {"DATABASE_URL": url, "DATABASE_OWNER_URL": url, "LOG_LEVEL": "debug", "PORT": "0", **more}


@pytest.mark.parametrize("url", VALID)
def test_what_is_shown_of_a_url_is_where_libpq_goes(url: str) -> None:
    url = at(url)
    assert SECRET not in shown(url)
    meant, seen = conninfo_to_dict(url), conninfo_to_dict(shown(url))
    names = ("user", "host", "hostaddr", "dbname")
    assert {name: meant.get(name) for name in names} == {name: seen.get(name) for name in names}
    assert any(SECRET in text for text in secrets_of(url))
    assert SECRET not in repr(Settings.from_environment(both(url, BANK_APP_PASSWORD=SECRET, SERVICE_PASSWORD=SECRET)))


@pytest.mark.parametrize("url", VALID)
def test_what_is_secret_in_a_url_is_hidden_apart_from_it_as_it_is_meant_and_as_it_is_encoded(url: str) -> None:
    url = at(url)
    meant = [str(value) for value in conninfo_to_dict(url).values() if SECRET in str(value)]
    assert meant
    for text in {form for value in meant for form in (value, quote(value, safe=""))}:
        assert SECRET not in without(f"password authentication failed with {text}.", secrets_of(url))


@pytest.mark.parametrize("url", ["postgresql://somebody@127.0.0.1:1/bank", "host=127.0.0.1 port=1 dbname=somewhere"])
def test_a_url_without_a_secret_is_shown(url: str) -> None:
    assert secrets_of(url) == set()
    ended = run_command(("serve",), both(url))
    assert shown(url) in ended.stderr
    assert "***" not in ended.output


@pytest.mark.parametrize("command", [*COMMANDS, ("serve",)], ids=" ".join)
def test_no_command_shows_a_secret_when_the_database_cannot_be_reached(command: tuple[str, ...]) -> None:
    for url in VALID:
        ended = run_command(
            command, both(at(url), BANK_APP_PASSWORD=SECRET, SERVICE_PASSWORD=SECRET, PGPASSWORD=SECRET)
        )
        assert ended.exit_code == 1
        assert "refused" in ended.output
        assert SECRET not in ended.output, ended.output


@pytest.mark.parametrize("command", [("serve",), ("migrate",)], ids=" ".join)
@pytest.mark.parametrize("url", INVALID, ids=range(len(INVALID)))
def test_a_url_that_is_not_valid_is_refused_without_any_of_it(command: tuple[str, ...], url: str) -> None:
    for name in ("DATABASE_URL", "DATABASE_OWNER_URL"):
        ended = run_command(command, {name: url})
        assert ended.exit_code == 2
        [line] = ended.stderr.splitlines()
        assert line.startswith(f"Error: {name} is not valid: ")
        assert SECRET not in ended.output, ended.output
    assert SECRET not in shown(url)


@pytest.mark.parametrize("variable", [setting.variable for setting in DECLARED.values() if not setting.is_secret])
def test_a_url_in_the_place_of_another_setting_is_not_shown(variable: str) -> None:
    ended = run_command(("status",), {variable: at(VALID[0])})
    assert ended.exit_code == 2
    assert variable in ended.stderr
    assert SECRET not in ended.output


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_shows_a_secret_of_a_database_that_answers(bank: Bank, command: tuple[str, ...]) -> None:
    secrets = {APP_PASSWORD, str(conninfo_to_dict(bank.owner_url)["password"]), SECRET}
    urls = {"DATABASE_URL": bank.app_url, "DATABASE_OWNER_URL": bank.owner_url}
    ended = run_command(command, {**urls, "LOG_LEVEL": "debug", "BANK_APP_PASSWORD": APP_PASSWORD})
    assert ended.exit_code == 0, ended.output
    said = ended.output
    for url in urls.values():
        for wrong, complaint in (
            (url.replace(bank.dbname, "no_such_database"), "does not exist"),
            (url.replace("@", f"{SECRET}@"), "authentication failed"),
        ):
            ended = run_command(command, both(wrong, BANK_APP_PASSWORD=APP_PASSWORD))
            assert ended.exit_code == 1
            assert complaint in ended.output
            said += ended.output
    assert not [secret for secret in secrets if secret in said]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.csv"
    file.write_text("account_id,transaction_type,amount_minor,source_trans_id\nada,credit,7,1\n")
    return file


def test_import_shows_no_key(rows: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(f"pgt_{SECRET}\n")
    for key in (["--key", f"pgt_{SECRET}"], ["--key-file", str(key_file)]):
        ended = run_command(("import", str(rows), "--url", f"http://{UNREACHABLE}", *key), {"LOG_LEVEL": "debug"})
        assert ended.exit_code == 1
        assert "nothing answers at" in ended.output
        assert SECRET not in ended.output
    ended = run_command(("import", str(rows), "--url", f"http://somebody:{SECRET}@{UNREACHABLE}"), {})
    assert ended.exit_code == 2
    assert "has an @ in it" in ended.output
    assert SECRET not in ended.output


# ---- processes ---------------------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def processes(process: subprocess.Popen[bytes]) -> Iterator[psutil.Process]:
    yield psutil.Process(process.pid)
    yield from psutil.Process(process.pid).children(recursive=True)


def test_a_service_shows_no_secret_in_its_log_its_answers_or_its_command_line(
    bank: Bank, output: Path, rows: Path
) -> None:
    owner_password = str(conninfo_to_dict(bank.owner_url)["password"])
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "DATABASE_URL": bank.app_url,
        "DATABASE_OWNER_URL": bank.owner_url,
        "BANK_APP_PASSWORD": SECRET,
        "SERVICE_PASSWORD": SECRET,
        "LOG_LEVEL": "debug",
        "PORT": "0",
    }
    with output.open("wb") as file:
        process = subprocess.Popen(SERVE, cwd=WORKING_DIRECTORY, env=environment, stdout=file, stderr=file)
    said = ""
    try:
        wait_until(lambda: " at http://" in output.read_text() or process.poll() is not None)
        assert process.poll() is None, output.read_text()
        url = next(word for word in output.read_text().split() if word.startswith("http://"))

        def is_ready() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{url}/health/ready").status_code == 200
            return False

        wait_until(is_ready)
        for path in ("/health/ready", "/metrics", "/v1/accounts/1"):
            answer = httpx.get(url + path, headers={"Authorization": f"Bearer pgt_{SECRET}"})
            said += answer.text + str(answer.headers)
        imported = run_command(("import", str(rows), "--url", url, "--key", f"pgt_{SECRET}"), environment)
        assert imported.exit_code == 1
        assert "is refused: Send `Authorization: Bearer KEY`" in imported.output
        said += imported.output
        for each in processes(process):
            said += json.dumps(each.cmdline())
            environ = json.dumps(each.environ())
            assert SECRET not in environ
            assert owner_password not in environ
    finally:
        process.terminate()
        process.wait(60)
    said += output.read_text()
    for secret in (SECRET, APP_PASSWORD, owner_password):
        assert secret not in said


@pytest.mark.parametrize("form", ["unreachable", "conninfo", "wrong password"])
def test_a_service_without_its_database_shows_no_secret(bank: Bank, form: str) -> None:
    urls = {
        "unreachable": at(VALID[3]),
        "conninfo": VALID[12],
        "wrong password": bank.app_url.replace("@", f"{SECRET}@"),
    }
    http = HttpServer(urls[form], workers=1, request_timeout_seconds=1)
    http.settings = Settings.from_environment({**http.settings.to_environment({}), "LOG_LEVEL": "debug"})
    try:
        http.start(ready=False)

        def lives() -> bool:
            assert http.process.poll() is None, http.log()
            with suppress(httpx.TransportError):
                return httpx.get(f"{http.url}/health/live").status_code == 200
            return False

        wait_until(lives)
        key = {"Authorization": f"Bearer pgt_{SECRET}"}
        answers = [httpx.get(http.url + path, headers=key) for path in ("/health/ready", "/v1/accounts/1")]
        assert [answer.status_code for answer in answers] == [503, 503]
    finally:
        http.terminate()
        http.process.wait(60)
        log = http.log()
        http.stop()
    assert "database_unavailable" in log
    for text in (log, *(answer.text + str(answer.headers) for answer in answers)):
        assert SECRET not in text


@pytest.mark.parametrize("url", INVALID[2:8])
def test_gunicorn_alone_shows_nothing_of_a_url_that_is_not_valid(url: str) -> None:
    ended = subprocess.run(
        gunicorn_command(),
        cwd=WORKING_DIRECTORY,
        env={"DATABASE_URL": url, "LOG_LEVEL": "debug"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "DATABASE_URL is not valid" in ended.stderr
    assert SECRET not in ended.stdout + ended.stderr


def python(code: str, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code, "status"],
        cwd=WORKING_DIRECTORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("variable", [setting.variable for setting in DECLARED.values() if setting.is_secret])
def test_a_traceback_of_a_command_has_stars_where_a_secret_was(variable: str) -> None:
    code = f"""if True:
        from service import cli
        cli.shown = None
        said = "{variable} is " + __import__("os").environ["{variable}"]
        cli.main.commands["status"].callback = lambda: {{}}[said]
        cli.main()
    """
    said = python(code, **{variable: at(VALID[0]) if variable.endswith("_URL") else SECRET})
    assert f"KeyError: '{variable} is ***'" in said
    assert SECRET not in said


def test_what_gunicorn_says_has_stars_where_a_secret_was(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """At this level it says all its settings: one of them, which does nothing here, stands for what nobody foresaw."""
    monkeypatch.setenv(
        "GUNICORN_CMD_ARGS", f"--access-logformat {shlex.quote(f'format {bank.app_url} {APP_PASSWORD}')}"
    )
    http = HttpServer(bank.app_url, workers=1)
    http.settings = replace(http.settings, log_level="debug")
    try:
        http.start()
        log = http.log()
    finally:
        http.stop()
    assert re.search(r"access_log_format: +format \*\*\* \*\*\*\n", log), log
    assert APP_PASSWORD not in log


def test_the_log_has_stars_where_a_secret_was() -> None:
    code = """if True:
        import os, structlog
        from service import logs
        from service.config import Settings
        logs.configure("debug")
        logs.hide(Settings.from_environment().secrets())
        url = os.environ["DATABASE_URL"]
        try:
            raise ValueError(url)
        except ValueError:
            structlog.get_logger().exception("failed", url=url, password=Settings().app_password)
    """
    said = python(code, DATABASE_URL=f"host=127.0.0.1 password='{SECRET} \\'ä'")
    assert "ValueError: ***" in said
    assert SECRET not in said
    json.loads(said)


def test_a_short_password_does_not_garble_the_log() -> None:
    with pytest.raises(SettingError):
        Settings.from_environment({"DATABASE_URL": "x"})
    code = """if True:
        import structlog
        from service import logs
        logs.configure("debug")
        logs.hide({"info"})
        structlog.get_logger().info("pgteller")
    """
    assert json.loads(python(code))["level"] == "info"
