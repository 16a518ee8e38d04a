"""Commands end by themselves when PostgreSQL is silent: a hole in the network, a stopped server, a proxy that stops."""

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from service import owner, watch
from service.embedded import EmbeddedPostgres
from service.owner import call, connect
from service.watch import SilentServerError, Watch
from tests.cli.conftest import run_command
from tests.conftest import APP_PASSWORD, Bank
from tests.http_server import wait_for

COMMANDS = ["status", "verify", "migrate", "serve", "correct-times", "keys list"]
INTERRUPTED_SECONDS_MAX = 20.0

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stops processes")


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ASK_SECONDS", 0.3)
    monkeypatch.setattr(watch, "ANSWER_SECONDS_MAX", 1.0)
    monkeypatch.setattr(watch, "SILENCE_SECONDS_MAX", 2.0)
    monkeypatch.setattr(watch, "REPORT_SECONDS", 0.5)
    monkeypatch.setattr(owner, "ANSWER_SECONDS_MAX", 1)
    monkeypatch.setattr("service.cli.ANSWER_SECONDS_MAX", 1)


@pytest.fixture(autouse=True)
def something_to_migrate(bank: Bank) -> None:
    with bank.connect("bank_owner") as owner:
        owner.execute("update bank.installation set sql_digest = 'another'")


class Proxy:
    """Forwards TCP to the server until a client sends `trigger`; then that connection, or all of them, are silent."""

    def __init__(self, bank: Bank, trigger: bytes, *, all_connections: bool = True) -> None:
        self._bank = bank
        self._trigger = trigger
        self._all_connections = all_connections
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.is_silent = threading.Event()

    def url(self, user: str, password: str) -> str:
        port = self._listener.getsockname()[1]
        return f"postgresql://{user}:{password}@127.0.0.1:{port}/{self._bank.dbname}?sslmode=disable&gssencmode=disable"

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{psycopg.conninfo.conninfo_to_dict(self._bank.owner_url)['host']}/.s.PGSQL.5432")
                self._sockets += [client, server]
                silent = self.is_silent if self._all_connections else threading.Event()
                threading.Thread(target=self._forward, args=(client, server, silent), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, silent), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, silent: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self._trigger in data:
                    self.is_silent.set()
                    silent.set()
                    if not self._all_connections:
                        target.sendall(data)  # it is done, and the answer is lost
                if not silent.is_set():
                    target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


def urls(proxy: Proxy) -> dict[str, str]:
    password = psycopg.conninfo.conninfo_to_dict(proxy._bank.owner_url)["password"]
    return {
        "DATABASE_URL": proxy.url("bank_app", APP_PASSWORD),
        "DATABASE_OWNER_URL": proxy.url("postgres", str(password)),
        "PORT": "0",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_accepts_and_says_nothing_ends_a_command(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        url = f"postgresql://somebody:secret@127.0.0.1:{hole.getsockname()[1]}/bank?connect_timeout=2"
        shown = run_command(tuple(command.split()), {"DATABASE_URL": url, "DATABASE_OWNER_URL": url, "PORT": "0"})
    assert shown.exit_code == 1
    (line,) = shown.stderr.splitlines()
    assert "timeout expired" in line


@pytest.mark.parametrize(
    ("command", "trigger"),
    [
        ("status", b'"health"'),
        ("serve", b'"health"'),
        ("verify", b'"verify_slice"'),
        ("keys list", b'"list_api_keys"'),
        ("correct-times", b"clock_timestamp()"),
        ("correct-times", b'"wrong_times"'),
        ("migrate", b"lock table"),
        ("migrate", b"_yoyo_migration"),
        ("migrate", b"check_function_bodies"),
    ],
)
def test_a_proxy_that_stops_forwarding_ends_a_command(bank: Bank, command: str, trigger: bytes) -> None:
    with Proxy(bank, trigger).running() as proxy:
        shown = run_command(tuple(command.split()), urls(proxy))
        assert proxy.is_silent.is_set()
    assert shown.exit_code == 1
    (line,) = shown.stderr.splitlines()
    assert "PostgreSQL has been silent for" in line or "PostgreSQL has not answered within" in line


@pytest.mark.parametrize(("command", "trigger"), [("verify", b'"verify_slice"'), ("migrate", b"check_function_bodies")])
def test_a_command_ends_when_its_answer_was_lost_though_the_server_lives(
    bank: Bank, command: str, trigger: bytes
) -> None:
    with Proxy(bank, trigger, all_connections=False).running() as proxy:
        shown = run_command((command,), urls(proxy))
    assert shown.exit_code == 1
    assert shown.stderr == "Error: PostgreSQL has ended what was asked, but its answer has not arrived\n"


def test_a_stopped_postmaster_ends_a_statement_and_refuses_a_connection(bank: Bank, server: EmbeddedPostgres) -> None:
    caught: list[BaseException] = []

    def sleep() -> None:
        try:
            with Watch(bank.owner_url) as watched, watched.connect(application_name="sleeper") as connection:
                connection.execute("select pg_sleep(600)")
        except BaseException as error:
            caught.append(error)

    with busy(bank, sleep, "sleeper") as thread:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            thread.join(60)
            assert [type(error) for error in caught] == [SilentServerError], caught
            status = (("status",), {"DATABASE_URL": f"{bank.app_url}&connect_timeout=2"})
            assert "timeout expired" in run_command(*status).stderr
        finally:
            os.kill(server.pid, signal.SIGCONT)
    caught.clear()
    gc.collect()  # attempts to connect that failed are cycles, with their sockets, which the server would wait for
    terminate(bank, "sleeper")


def test_a_stopped_backend_is_waited_for_as_a_busy_one_is_but_not_by_a_quick_command(bank: Bank) -> None:
    pids: list[int] = []
    with pytest.raises(SilentServerError, match="not answered within"), Watch(bank.owner_url, 2.0) as watched:
        connection = watched.connect()
        pids.append(connection.info.backend_pid)
        os.kill(pids[0], signal.SIGSTOP)
        try:
            connection.execute("select 1")
        finally:
            os.kill(pids[0], signal.SIGCONT)


def test_whom_a_long_command_waits_for_is_said_and_it_goes_on_when_that_is_over(
    bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[object] = []
    said: list[str] = []

    def verify() -> None:
        with connect(bank.app_url, "bank_app") as connection:
            found.append(call(connection, "verify", ledger_id=None))

    def is_said(words: str) -> bool:
        said.append(capsys.readouterr().err)
        return words in "".join(said)

    with psycopg.connect(bank.owner_url, application_name="closing-time") as blocker:
        blocker.execute("lock table bank.account in access exclusive mode")
        thread = threading.Thread(target=verify)
        thread.start()
        wait_for(lambda: is_said(f"waits for process {blocker.info.backend_pid} (closing-time)"), "it is said")
    thread.join(60)
    assert found == [[]]


def test_a_quick_command_that_waits_for_a_lock_is_ended_by_the_server(bank: Bank) -> None:
    with psycopg.connect(bank.owner_url) as blocker:
        blocker.execute("lock table bank.api_key in access exclusive mode")
        shown = run_command(("keys", "list"), {"DATABASE_URL": bank.app_url, "DATABASE_OWNER_URL": bank.owner_url})
    assert (shown.exit_code, shown.stderr) == (1, "Error: canceling statement due to statement timeout\n")


@pytest.mark.parametrize(("command", "trigger"), [("verify", b'"verify_slice"'), ("migrate", b"check_function_bodies")])
def test_ctrl_c_ends_a_command_that_waits_for_a_silent_server(
    bank: Bank, tmp_path: Path, command: str, trigger: bytes
) -> None:
    with Proxy(bank, trigger).running() as proxy:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", command],
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, **urls(proxy)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(proxy.is_silent.is_set, "the proxy is silent")
            process.send_signal(signal.SIGINT)
            assert process.wait(INTERRUPTED_SECONDS_MAX) != 0
        finally:
            process.kill()
            process.wait()


@contextmanager
def busy(bank: Bank, work: Callable[[], None], application_name: str) -> Iterator[threading.Thread]:
    """Run it in a thread; the block begins when its statement runs."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    query = "select from pg_stat_activity where application_name = %s and state = 'active' and query like '%%sleep%%'"
    with psycopg.connect(bank.owner_url, autocommit=True) as connection:
        wait_for(lambda: connection.execute(query, [application_name]).rowcount == 1, "it runs")
    yield thread


def terminate(bank: Bank, application_name: str) -> None:
    query = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = %s"
    with psycopg.connect(bank.owner_url, autocommit=True) as connection:
        connection.execute(query, [application_name])
