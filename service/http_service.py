"""The HTTP service as a child process, and the port that it listens on."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gunicorn.systemd import SD_LISTEN_FDS_START, listen_fds  # type: ignore[import-untyped]

from service import launcher
from service.config import Settings

PACKAGE = Path(__file__).resolve().parent
WORKING_DIRECTORY = PACKAGE.parent
READY_SECONDS_MAX = 60.0
POLL_SECONDS = 0.1
KILL_SECONDS = 5.0

Address = tuple[str, int]


class HttpServiceError(RuntimeError):
    """The service cannot run; the message says why and what to do."""


class HttpService:
    """gunicorn as a child process. It stops by itself, gracefully, when this process is killed."""

    def __init__(self, settings: Settings) -> None:
        self.url = base_url(settings)
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return at once. Call it from the main thread, see service/launcher.py."""
        self._process = subprocess.Popen(  # noqa: S603 - our own launcher
            launcher.command_line(gunicorn_command(), when_orphaned=signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            cwd=WORKING_DIRECTORY,
            env=self._settings.to_environment(),
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop the service first
        )

    def await_ready(self) -> None:
        """Return when it can serve requests; raises HttpServiceError when it ended or took too long."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not is_ready(self._settings):
            if not self.is_running():
                raise HttpServiceError("the HTTP service did not start; its messages above say why")
            if time.monotonic() > deadline:
                raise HttpServiceError(f"the HTTP service was not ready after {READY_SECONDS_MAX:g} s")
            time.sleep(POLL_SECONDS)

    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Let the requests in flight finish, then end it. Harmless when it is stopped."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self._settings.graceful_timeout_seconds + KILL_SECONDS)
        # Workers survive a killed master and would keep the port.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Start it again after it ended; first end the workers that it left behind."""
        self.stop()
        self.start()

    def hurry(self) -> None:
        """Do not wait for the requests in flight any longer."""
        if self.is_running() and self._process is not None:
            self._process.send_signal(signal.SIGINT)


def gunicorn_command() -> list[str]:
    """Return the command of the service. Run it in WORKING_DIRECTORY: it looks there first for modules."""
    return [
        *(sys.executable, "-m", "gunicorn"),
        *("--config", str(PACKAGE / "gunicorn.conf.py")),
        "service.asgi:create_asgi_app()",
    ]


def local_address(settings: Settings) -> Address:
    """Return where the service is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return host, settings.port


def base_url(settings: Settings) -> str:
    """Return the service's address as a URL, as seen from this machine."""
    return _url(*local_address(settings))


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_ready(settings: Settings) -> bool:
    """Whether the service answers on this machine that it is ready."""
    connection = http.client.HTTPConnection(*local_address(settings), timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def port_is_open(address: Address) -> bool:
    """Whether anything listens there."""
    with suppress(OSError), socket.create_connection(address, timeout=5):
        return True
    return False


def passed_address() -> str | None:
    """Return the addresses of the sockets that systemd, or who does as it does, listens on for us; None without any.

    gunicorn finds them in the same way, and HOST and PORT do not count then.
    """
    addresses = []
    for descriptor in range(SD_LISTEN_FDS_START, SD_LISTEN_FDS_START + listen_fds(unset_environment=False)):
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            name = listener.getsockname()
        addresses.append(_url(*name[:2]) if isinstance(name, tuple) else f"the socket {name}")
    return ", ".join(addresses) or None


def claim_port(settings: Settings) -> Settings:
    """Return the settings with a port that is free now, chosen by the system when it is 0.

    Raises HttpServiceError when the service could not listen.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service does
            probe.bind(address)
            probe.listen()
            return replace(settings, port=probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise HttpServiceError(
            f"cannot listen on port {settings.port} of {settings.host}: {reason}. "
            "Stop what listens there, or set PORT (or HOST) to another"
        ) from None
