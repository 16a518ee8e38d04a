"""A real PgBouncer between a test and its PostgreSQL, where one is installed.

Debian's package, or PGTELLER_TEST_PGBOUNCER: the command of another, with blanks between its words.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from service import launcher
from service.embedded import EmbeddedPostgres
from tests.http_server import wait_for

_PORT = 6432
_ADMIN, _ADMIN_PASSWORD = "pooler_admin", "admin-password-of-the-tests"


def command() -> list[str] | None:
    """Return how PgBouncer is run, or None when there is none."""
    named = os.environ.get("PGTELLER_TEST_PGBOUNCER")
    if named:
        return shlex.split(named)
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    return [found] if found else None


def keeping_no_statements() -> dict[str, Any]:
    """Return the settings with which it keeps no prepared statements; before 1.21 it never does."""
    said = subprocess.run([*(command() or []), "--version"], check=True, capture_output=True, text=True).stdout
    major, minor = re.findall(r"\d+", said)[:2]
    return {"max_prepared_statements": 0} if (int(major), int(minor)) >= (1, 21) else {}


needs_pgbouncer = pytest.mark.skipif(
    command() is None, reason="PGBOUNCER IS NOT INSTALLED, nothing is tested behind a pooler: apt-get install pgbouncer"
)

POOL_MODE = os.environ.get("PGTELLER_TEST_POOLER")
"""Where set, the services of tests/http go through a PgBouncer in this mode."""


def direct_only(reason: str) -> pytest.MarkDecorator:
    """Mark a test that looks at what only a direct connection has."""
    return pytest.mark.skipif(POOL_MODE is not None, reason=f"not behind a pooler: {reason}")


class PgBouncer:
    """PgBouncer on a socket in a folder of its own; it ends with us. Start it from the main thread."""

    def __init__(
        self, server: EmbeddedPostgres, passwords: dict[str, str], pool_mode: str = "transaction", **settings: object
    ) -> None:
        """passwords: of the logins that it lets in. settings: of its configuration, others than ours."""
        self._server = server
        with psycopg.connect(server.conninfo("postgres")) as connection:
            host, port = connection.info.host, connection.info.port
        self._direct = f"?host={quote(host, safe='')}&port={port}"
        data = Path(host).stat()
        self._user = (data.st_uid, data.st_gid) if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="pgteller-pooler-"))
        self._log = self.directory / "log"
        users = "".join(f'"{name}" "{word}"\n' for name, word in [*passwords.items(), (_ADMIN, _ADMIN_PASSWORD)])
        chosen = {
            "listen_addr": "",
            "listen_port": _PORT,
            "unix_socket_dir": self.directory,
            "auth_type": "scram-sha-256",
            "auth_file": self.directory / "users",
            "admin_users": _ADMIN,
            "pool_mode": pool_mode,
            "default_pool_size": 4,
            "max_client_conn": 200,
            # Not more than a test waits for: a server that came back is looked for anew after it.
            "server_login_retry": 1,
            **settings,
        }
        lines = [f"{name} = {value}" for name, value in chosen.items()]
        self._configuration = self.directory / "pgbouncer.ini"
        self._configuration.write_text(
            "\n".join(["[databases]", f"* = host={host} port={port}", "[pgbouncer]", *lines, ""])
        )
        (self.directory / "users").write_text(users)
        for path in (self.directory, self._configuration, self.directory / "users"):
            path.chmod(0o700)
            if self._user is not None:
                os.chown(path, *self._user)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process, while it runs."""
        assert self._process is not None
        return self._process.pid

    def of(self, url: str) -> str:
        """Return a URL of the server as one that leads through here; any other as it is."""
        host = quote(str(self.directory), safe="")
        return url.replace(self._direct, f"?host={host}&port={_PORT}")

    def start(self) -> None:
        """Start it and return when it takes connections."""
        program = command()
        assert program is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                launcher.command_line(
                    [*program, str(self._configuration)], when_orphaned=signal.SIGTERM, user=self._user
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        process = self._process

        def listens() -> bool:
            assert process.poll() is None, f"PgBouncer ended: {self.log()}"
            with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.directory / f".s.PGSQL.{_PORT}"))
                return True
            return False

        wait_for(listens, "PgBouncer listens")

    def kill(self) -> None:
        """End it at once, and all its connections."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            (self.directory / f".s.PGSQL.{_PORT}").unlink(missing_ok=True)

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.directory)

    def admin(self, order: str) -> list[tuple[Any, ...]]:
        """Give it an order, such as PAUSE, or ask it for a list."""
        url = self.of(self._server.conninfo("pgbouncer", _ADMIN, _ADMIN_PASSWORD))
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            cursor = connection.execute(order.encode())
            return cursor.fetchall() if cursor.description else []

    def log(self) -> str:
        """Return what it has printed."""
        return self._log.read_text(errors="replace")
