"""`pgteller serve` as somebody uses it: two commands, curl lines that work, Ctrl-C, and what crashes leave."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from service import keys
from service.config import Settings
from service.http_service import claim_port, port_is_open
from service.local import LocalBank
from service.migrate import set_app_password
from tests.cli.conftest import Run, local_environment, run_command
from tests.cli.test_status_verify_migrate import install_a_newer_version
from tests.conftest import Bank

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
SERVE = [sys.executable, "-m", "service.cli", "serve"]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def wait_until(condition: Callable[[], object], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class Serve:
    """A `pgteller serve` that runs, and what it printed."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def url(self) -> str:
        return self._found(r"pgteller is ready at (\S+)")

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    @property
    def key(self) -> str:
        return self._found(r"(?m)^API key +(\S+)")

    @property
    def sql_url(self) -> str:
        return self._found(r"(?m)^SQL +(\S+)")

    @property
    def commands(self) -> list[str]:
        """The lines to paste."""
        return re.findall(r"^(?:ACCOUNT=|curl |psql |'?/\S*psql'? ).*$", self.output, re.MULTILINE)

    def children(self, name: str) -> list[psutil.Process]:
        """Its children, and theirs, that have this on the command line."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go; a zombie counts as gone
                if name in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def stop(self, signum: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(signum)
        return self.process.wait(60)

    def is_ready(self) -> bool:
        asked = subprocess.run(["curl", "-sf", f"{self.url}/health/ready"], capture_output=True, check=False)
        return asked.returncode == 0

    def _found(self, pattern: str) -> str:
        match = re.search(pattern, self.output)
        assert match is not None, self.output
        return match[1]


@contextmanager
def serving(environment: dict[str, str], output: Path) -> Iterator[Serve]:
    """Run `pgteller serve`; kill it in the end if the test has not stopped it."""
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    with output.open("wb") as file:
        process = subprocess.Popen(SERVE, cwd=REPOSITORY, env={**inherited, **environment}, stdout=file, stderr=file)
    serve = Serve(process, output)
    try:
        wait_until(lambda: "Idempotency-Key" in serve.output or process.poll() is not None)
        assert process.poll() is None, serve.output
        yield serve
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    return local_environment(home)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def balances(sql_url: str) -> list[int]:
    with psycopg.connect(sql_url) as connection:
        rows = connection.execute("select balance_minor from bank.account_balance order by account_id")
        return [row[0] for row in rows]


def test_the_printed_lines_work_on_a_fresh_and_on_a_used_bank(environment: dict[str, str], output: Path) -> None:
    with serving(environment, output) as serve:
        assert len(serve.commands) == 4
        for _ in range(2):
            pasted = subprocess.run(
                ["sh", "-eu", "-c", "\n".join(serve.commands)], capture_output=True, text=True, check=True
            )
            assert re.match(r"account \d+\n", pasted.stdout)
            assert pasted.stdout.count('"balance_minor":12500') == 1
            assert "balance_minor |" in pasted.stdout  # psql
            assert pasted.stderr == ""
        assert balances(serve.sql_url) == [-25000, 12500, 12500]
        assert serve.stop() == 0


def test_the_key_and_the_password_are_readable_by_their_owner_alone(
    environment: dict[str, str], home: Path, output: Path
) -> None:
    with serving(environment, output) as serve:
        key_file = home / "development.key"
        assert key_file.read_text().strip() == serve.key
        for file in (key_file, home / "teller.password", home / "pgteller_service.password"):
            assert file.stat().st_mode & 0o777 == 0o600
        with psycopg.connect(serve.sql_url) as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("select * from bank.api_key")


def test_the_service_and_people_have_logins_of_their_own(environment: dict[str, str], output: Path) -> None:
    with serving(environment, output) as serve, psycopg.connect(serve.sql_url) as people:
        assert people.info.user == "teller"
        found = people.execute(
            "select distinct usename::text from pg_stat_activity where application_name like 'pgteller%'"
        ).fetchall()
        assert found == [("pgteller_service",)]
        listed = run_command(("logins", "list"), environment).stdout
        states = {line.split()[0]: line.split()[1:] for line in listed.splitlines()}
        today = time.strftime("%Y-%m-%d", time.gmtime())
        assert states["teller"] == ["call", today, "1"]
        assert states["pgteller_service"][:2] == ["call", today]
        assert len(states["pgteller_service"]) == 3  # no warning


def test_a_home_of_an_earlier_version_goes_on_working_and_so_does_its_login(fresh_home: Path, output: Path) -> None:
    """There the service and people logged in as bank_app, with a password that was kept."""
    environment = local_environment(fresh_home)
    bank = LocalBank(Settings.from_environment(environment))
    (fresh_home / "bank_app.password").write_text("of-an-earlier-version")
    with bank.running(create=True):
        bank.install()
        with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
            set_app_password(superuser, "of-an-earlier-version")
    with serving(environment, output) as serve:
        assert serve.is_ready()
        earlier = bank.server.conninfo("bank", "bank_app", "of-an-earlier-version")
        assert balances(earlier) == balances(serve.sql_url)


def test_a_second_start_finds_the_data_and_the_key_again(environment: dict[str, str], home: Path, output: Path) -> None:
    with serving(environment, output) as serve:
        key, before = serve.key, balances(serve.sql_url)
        opened = serve.commands[0]
        subprocess.run(["sh", "-eu", "-c", opened], check=True, capture_output=True)
    with serving(environment, output) as serve:
        assert serve.key == key
        assert balances(serve.sql_url)[: len(before)] == before
        assert len(balances(serve.sql_url)) > len(before)
        assert "Migrated" not in serve.output


def test_a_development_key_that_was_revoked_is_replaced(environment: dict[str, str], home: Path, output: Path) -> None:
    with serving(environment, output) as serve:
        key = serve.key
        with psycopg.connect(serve.sql_url) as app:
            (api_key_id,) = app.execute(
                "select api_key_id from bank.authenticate(key_digest => %s)", [keys.digest(key)]
            ).fetchone() or (0,)
        assert run_command(("keys", "revoke", str(api_key_id)), environment).exit_code == 0
    with serving(environment, output) as serve:
        assert serve.key != key
        assert (home / "development.key").read_text().strip() == serve.key


def test_the_other_commands_work_beside_it(environment: dict[str, str], output: Path) -> None:
    with serving(environment, output) as serve:
        environment = {**environment, "PORT": str(serve.address[1])}
        shown = run_command(("status",), environment)
        assert shown.exit_code == 0, shown.output
        assert f"{serve.url} is ready" in shown.stdout
        assert run_command(("verify",), environment).exit_code == 0
        assert "development" in run_command(("keys", "list"), environment).stdout
        assert serve.is_ready()


def test_import_posts_to_the_service_that_runs(environment: dict[str, str], output: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("account_id,transaction_type,amount_minor,source_trans_id\nada,credit,7,1\n")
    with serving(environment, output) as serve:
        environment = {**environment, "PORT": str(serve.address[1])}
        result = run_command(("import", str(file)), environment)
        assert result.exit_code == 0, result.output
        assert "starting the service" not in result.stderr
        assert 7 in balances(serve.sql_url)


def test_a_second_one_on_the_same_home_fails_in_one_line(environment: dict[str, str], home: Path, output: Path) -> None:
    with serving(environment, output) as serve:
        second = run_serve(environment)
        assert second.returncode == 1
        (line,) = second.stderr.splitlines()
        assert f"{home} is in use by process {serve.process.pid}" in line
        assert serve.is_ready()


def test_a_port_that_is_taken_fails_in_one_line_that_names_it(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = run_serve({**environment, "PORT": str(port)})
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert f"port {port} " in line
    assert "PORT" in line


def run_serve(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        SERVE, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything(environment: dict[str, str], output: Path, signum: signal.Signals) -> None:
    with serving(environment, output) as serve:
        children = serve.children("")
        assert serve.children("gunicorn")
        assert serve.children("postgres")
        assert serve.stop(signum) == 0
        assert not [child for child in children if child.is_running()]
        assert not port_is_open(serve.address)
        assert "Traceback" not in serve.output


def test_nothing_outlives_a_serve_that_is_killed(environment: dict[str, str], output: Path) -> None:
    with serving(environment, output) as serve:
        children = serve.children("")
        serve.stop(signal.SIGKILL)
        wait_until(lambda: not [child for child in children if child.is_running()])
    with serving(environment, output) as serve:
        assert serve.is_ready()


def test_postgresql_is_started_again_when_it_was_killed(environment: dict[str, str], output: Path) -> None:
    with serving(environment, output) as serve:
        before = balances(serve.sql_url)
        postmaster = min(serve.children("postgres"), key=lambda child: child.create_time())
        postmaster.kill()
        wait_until(lambda: "PostgreSQL ended unexpectedly" in serve.output)
        wait_until(serve.is_ready)
        assert balances(serve.sql_url) == before
        assert serve.stop() == 0


def test_the_http_service_is_started_again_when_it_was_killed_and_its_workers_ended(
    environment: dict[str, str], output: Path
) -> None:
    with serving(environment, output) as serve:
        before = serve.children("gunicorn")
        min(before, key=lambda child: child.create_time()).kill()
        wait_until(lambda: "The HTTP service ended unexpectedly" in serve.output)
        wait_until(lambda: not [child for child in before if child.is_running()])
        wait_until(serve.is_ready)
        assert serve.stop() == 0


# ---- with DATABASE_URL -------------------------------------------------------------------------------------


def test_with_a_database_url_it_becomes_the_service_and_knows_no_owner_url(
    bank: Bank, output: Path, tmp_path: Path
) -> None:
    environment = {
        "DATABASE_URL": bank.app_url,
        "DATABASE_OWNER_URL": bank.owner_url,
        "PGTELLER_HOME": str(tmp_path / "home"),
        "PORT": "0",
    }
    with output.open("wb") as file:
        process = subprocess.Popen(SERVE, cwd=REPOSITORY, env={**os.environ, **environment}, stdout=file, stderr=file)
    try:
        wait_until(lambda: " at http://" in output.read_text() or process.poll() is not None)
        assert process.poll() is None, output.read_text()
        url = output.read_text().split()[-1]
        curl = ["curl", "-sf", f"{url}/health/ready"]
        wait_until(lambda: subprocess.run(curl, capture_output=True, check=False).returncode == 0)
        assert "DATABASE_OWNER_URL" not in psutil.Process(process.pid).environ()
        assert not (tmp_path / "home").exists()
    finally:
        process.terminate()
        assert process.wait(60) == 0


def free_port() -> int:
    return claim_port(Settings(port=0)).port


@contextmanager
def unheard(redirected: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run `pgteller serve` with its output as a shell redirects it, until it is ready on PORT."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {shlex.join(SERVE)} {redirected}"],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    curl = ["curl", "-sf", f"http://127.0.0.1:{environment['PORT']}/health/ready"]

    def is_ready() -> bool:
        assert process.poll() is None, f"it ended with {process.poll()}"
        return subprocess.run(curl, capture_output=True, check=False).returncode == 0

    try:
        wait_until(is_ready)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


UNHEARD = [">/dev/full", ">&-", "2>/dev/full", "2>&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-"]


@pytest.mark.parametrize("redirected", UNHEARD)
def test_with_a_database_url_it_serves_whether_or_not_it_can_say_so(bank: Bank, redirected: str) -> None:
    with bank.connect("bank_owner") as owner:
        install_a_newer_version(owner)  # of which it has something to say
    environment = {"DATABASE_URL": bank.app_url, "PORT": str(free_port())}
    with unheard(redirected, environment) as process:
        # What a worker says goes where nobody hears it, and not into the next file or connection that was opened.
        for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children()):
            for descriptor in (0, 1, 2):
                assert Path(f"/proc/{each.pid}/fd/{descriptor}").readlink() in (Path("/dev/full"), Path(os.devnull))
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize("redirected", [">/dev/full 2>/dev/full", "<&- >&- 2>&-"])
def test_with_a_bank_of_its_own_likewise(environment: dict[str, str], redirected: str) -> None:
    with unheard(redirected, {**environment, "PORT": str(free_port())}) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_migrate_succeeds_whether_or_not_it_can_say_so(bank: Bank) -> None:
    for redirected in (">/dev/full", ">&-"):
        ended = subprocess.run(
            ["/bin/sh", "-c", f"exec {shlex.join([*SERVE[:-1], 'migrate'])} {redirected}"],
            cwd=REPOSITORY,
            env={**os.environ, "DATABASE_OWNER_URL": bank.owner_url},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (ended.returncode, ended.stderr) == (0, "")


def test_with_a_database_url_it_does_not_migrate(run: Run, bank: Bank) -> None:
    with psycopg.connect(bank.owner_url) as connection:
        for table in ("installation", "installed_version"):
            connection.execute(f"update bank.{table} set migration_id = '0000.older'".encode())
    shown = run("serve", PORT="0")
    assert shown.exit_code == 1
    assert "its last migration is 0000.older" in shown.stderr
    assert "run `pgteller migrate`" in shown.stderr
