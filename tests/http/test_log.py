"""The service serves whatever becomes of its log, and whether there is room for its figures."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import launcher
from service.http_service import WORKING_DIRECTORY, gunicorn_command
from tests.http.conftest import problem_of
from tests.http_server import HttpServer, wait_for

NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
KEY = {"Authorization": "Bearer pgt_" + "a" * 43}


@contextmanager
def serving(output: int, command: Callable[[list[str]], list[str]] = list, **settings: int) -> Iterator[HttpServer]:
    """A service without a database, whose every answer with a key is a 503, and whose log goes to this descriptor."""
    http = HttpServer(NO_DATABASE, workers=1, hold_sweep_seconds=0, request_timeout_seconds=1, **settings)
    http._process = subprocess.Popen(
        launcher.command_line(command(gunicorn_command()), when_orphaned=signal.SIGTERM),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=WORKING_DIRECTORY,
        env=http.settings.to_environment(),
        start_new_session=True,
    )

    def lives() -> bool:
        assert http.process.poll() is None
        try:
            return httpx.get(f"{http.url}/health/live").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(lives, "the service lives")
        yield http
    finally:
        http.stop()


def failed(http: HttpServer, request_id: str = "x") -> dict[str, Any]:
    headers = {**KEY, "X-Request-ID": request_id}
    answer = httpx.get(f"{http.url}/v1/accounts/1", headers=headers, timeout=15)
    return problem_of(answer, 503, "database_unavailable")


def test_a_log_on_a_full_disk_spoils_no_answer() -> None:
    with open("/dev/full", "wb") as full, serving(full.fileno()) as http:  # noqa: PTH123
        for _ in range(3):
            failed(http)
        [worker] = http.worker_pids()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: http.worker_pids() not in ([], [worker]), "there is another worker")


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    reader, writer = os.pipe()
    try:
        with serving(writer) as http:
            flags = fcntl.fcntl(writer, fcntl.F_GETFL)
            fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
            with pytest.raises(BlockingIOError):
                while True:
                    os.write(writer, b"x")
            fcntl.fcntl(writer, fcntl.F_SETFL, flags)
            for number in range(3):
                failed(http)
                time.sleep(1.1 if number == 1 else 0)  # the next line is due
            [worker] = http.worker_pids()
            os.kill(worker, signal.SIGKILL)  # of which the master has something to say
            wait_for(lambda: http.worker_pids() not in ([], [worker]), "there is another worker")
            http.terminate()
            assert http.process.wait(30) == 0
    finally:
        os.close(writer)
        os.close(reader)


def test_requests_that_fail_alike_are_a_line_a_second(tmp_path: Path) -> None:
    requests = 60
    with (tmp_path / "log").open("wb") as log, serving(log.fileno()) as http:
        began = time.monotonic()
        with ThreadPoolExecutor(20) as threads:
            list(threads.map(lambda number: failed(http, f"r{number}"), range(requests)))

        def lines() -> list[dict[str, Any]]:
            text = (tmp_path / "log").read_text().splitlines()
            return [json.loads(line) for line in text if '"database_unavailable"' in line]

        wait_for(lambda: sum(line["requests"] for line in lines()) == requests, "all are counted")
        assert len(lines()) <= 2 + time.monotonic() - began
        assert all(line["request_id"].startswith("r") and line["path"] == "/v1/accounts/1" for line in lines())


# ---- figures


def in_small_memory(command: list[str], memory: str, temporary: str) -> list[str]:
    """Return the command with a file system of these sizes in memory as /dev/shm, and as the folder for what is not."""
    script = f"mount -t tmpfs -o size={memory} tmpfs /dev/shm && mount -t tmpfs -o size={temporary} tmpfs /mnt"
    if subprocess.run(["unshare", "-m", "sh", "-c", script], check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    unshare = shutil.which("unshare") or ""
    return [unshare, "-m", "sh", "-c", f'{script} && export TMPDIR=/mnt && exec "$@"', "sh", *command]


@pytest.mark.parametrize(
    ("memory", "temporary", "rooms"),
    [("64k", "64m", {"mnt"}), ("64m", "64k", {"shm"}), ("64k", "16k", set()), ("64k", "180k", set())],
)
def test_figures_go_where_there_is_room_and_else_the_service_goes_without(
    tmp_path: Path, memory: str, temporary: str, rooms: set[str]
) -> None:
    with (
        (tmp_path / "log").open("wb") as log,
        serving(log.fileno(), lambda command: in_small_memory(command, memory, temporary)) as http,
    ):
        [worker] = http.worker_pids()
        failed(http)
        figures = httpx.get(f"{http.url}/metrics")
        assert figures.status_code == 200
        whole = "pgteller_http_requests_total" in figures.text
        assert whole == bool(rooms)
        root = Path(f"/proc/{worker}/root")
        found = {file.parent.parent.name for file in root.glob("dev/shm/*/*.db")}
        found |= {file.parent.parent.name for file in root.glob("mnt/*/*.db")}
        assert found >= rooms
        assert http.worker_pids() == [worker]
        said = [line for line in (tmp_path / "log").read_text().splitlines() if "no room for figures" in line]
        assert bool(said) == (not rooms)
        assert all("No space left" in json.loads(line)["error"] for line in said)


def test_figures_that_find_no_more_room_end_and_are_kept_no_longer() -> None:
    """They begin in a file of 64 KiB. The file system has room for it, and not for as much again."""
    script = """if True:
        import os
        from service import metrics
        for number in range(2000):
            metrics.HTTP_REFUSED.labels(f"reason {number}").inc()
        assert metrics.HTTP_REFUSED.labels("reason 7")._value.get() == 1
        assert not os.path.exists(f"/mnt/counter_{os.getpid()}.db")
        assert os.path.exists(f"/mnt/gauge_livemax_{os.getpid()}.db")
    """
    command = in_small_memory([sys.executable, "-c", script], "16k", "220k")
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": "/mnt"}
    ended = subprocess.run(command, env=environment, cwd=WORKING_DIRECTORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("no room for figures") == 1


# ---- a disk that is read-only, as of `docker run --read-only`


def with_a_read_only_disk(command: list[str], memory: str) -> list[str]:
    """Return the command where nothing can be written but a file system in memory as /dev/shm, with these options."""
    script = f"mount -t tmpfs -o {memory} tmpfs /dev/shm && mount -o remount,bind,ro /"
    check = f"{script} && ! touch /tmp/x"
    if subprocess.run(["unshare", "-m", "sh", "-c", check], check=False, capture_output=True).returncode:
        pytest.skip("the disk cannot be made read-only here")
    return [shutil.which("unshare") or "", "-m", "sh", "-c", f'{script} && exec "$@"', "sh", *command]


def test_a_read_only_disk_does_not_stop_the_service(tmp_path: Path) -> None:
    with (
        (tmp_path / "log").open("wb") as log,
        serving(log.fileno(), lambda command: with_a_read_only_disk(command, "size=64m")) as http,
    ):
        failed(http)
        assert "pgteller_http_requests_total" in httpx.get(f"{http.url}/metrics").text


def test_without_a_place_to_write_to_the_service_says_what_to_do_in_one_line() -> None:
    command = with_a_read_only_disk(gunicorn_command(), "ro")
    environment = {**os.environ, "DATABASE_URL": NO_DATABASE}
    ended = subprocess.run(command, cwd=WORKING_DIRECTORY, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "pgteller cannot write to /dev/shm or /tmp: give it one of them, such as by --tmpfs /tmp\n"
