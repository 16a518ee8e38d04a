"""The gunicorn worker: uvicorn on uvloop and httptools, the fastest of those measured (see benchmarks/)."""

import fcntl
import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import structlog
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from uvicorn_worker import UvicornWorker

from service import logs
from service.config import Settings

log = structlog.get_logger()

_OTHER_FILES = 104
"""Descriptors besides clients and the pool: 64 refused clients that linger, and 40 for listeners, figures, the log."""

_MEMORY = Path("/dev/shm")  # noqa: S108 - only private files and folders are made in it
_FIGURES_PREFIX = "pgteller-figures-"
_IN_USE = "in-use"
_FIGURES_BYTES_MIN = 8 * 2**20
"""Free room in memory below which the figures go elsewhere: each worker takes less than 1 MiB."""


class GunicornLogger(Logger):  # type: ignore[misc]  # it has no types
    """gunicorn's own log, which is uvicorn's too: it does not wait for whoever reads it either."""

    def _set_handler(self, log: Any, output: str, fmt: Any, stream: Any = None) -> None:
        super()._set_handler(log, output, fmt, logs.STDERR if stream in (None, sys.stderr) else stream)


class Worker(UvicornWorker):  # type: ignore[misc]  # it has no types
    """uvicorn's worker with its own choices fixed."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "ws": "none",
        "proxy_headers": False,  # nothing here asks who the client was
    }

    def init_process(self) -> None:
        """Set up the log before anything is loaded that may have something to say."""
        logs.configure(Settings.from_environment().log_level)
        super().init_process()

    def run(self) -> None:
        """Serve. What was loaded until now stays, and requests leave little behind that only a search would find."""
        settings = Settings.from_environment()
        # Not before raw_env is in force, see gunicorn.conf.py: it imports the metrics.
        from service.http_protocol import Connections, HttpProtocol  # noqa: PLC0415

        self.config.http = partial(
            HttpProtocol, worker_connections=Connections(settings, connections_that_fit(settings))
        )
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)  # searching as often as Python does by default took a quarter of the time
        super().run()

    async def callback_notify(self) -> None:
        """Say that this worker lives, and stop in good order when its master has died: nobody else would stop it."""
        if os.getppid() != self.ppid:
            signal.raise_signal(signal.SIGTERM)
        await super().callback_notify()


def connections_that_fit(settings: Settings) -> int:
    """Raise the soft limit of open files as far as needed; return how many connections of clients there may be.

    So accept() never fails for want of a descriptor: uvloop would then close the connection and say nothing.
    """
    others = _OTHER_FILES + settings.pool_connections_max
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.connections_max + others
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            connections_max = max(1, soft - others)
            log.warning("fewer connections than CONNECTIONS_MAX, for the limit of open files", limit=connections_max)
            return connections_max
    return settings.connections_max


def signs_directory() -> str | None:
    """Return where gunicorn keeps each worker's sign of life, an empty file; None: where Python puts such files.

    In memory, which a container has also when its disk is read-only, and which no slow or full disk holds up.
    Ends the process where no file can be made at all: gunicorn would, with a traceback.
    """
    if os.access(_MEMORY, os.W_OK):
        return str(_MEMORY)
    try:
        tempfile.gettempdir()
    except OSError:
        sys.exit(f"pgteller cannot write to {_MEMORY} or /tmp: give it one of them, such as by --tmpfs /tmp")
    return None


@cache
def figures_directory() -> str:
    """Make the folder of the workers' figures: once, for a reload of gunicorn's settings asks again.

    In memory where there is room, which containers often give little of. Where no folder can be made, the name of one
    that is not there: the service goes on without figures.
    """
    _remove_forgotten_figures()
    in_memory = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _FIGURES_BYTES_MIN
    try:
        while True:
            directory = tempfile.mkdtemp(prefix=_FIGURES_PREFIX, dir=_MEMORY if in_memory else None)
            mark = os.open(Path(directory, _IN_USE), os.O_CREAT | os.O_RDWR, 0o600)
            try:
                is_ours = _lock(mark) and Path(directory, _IN_USE).exists()
            except OSError:  # a file system without locks, where nobody removes anything
                is_ours = True
            if is_ours:
                return directory  # the mark stays open, and locked, as long as we or a worker live
            os.close(mark)  # another master took it for a forgotten one
    except OSError:
        return os.devnull + "/figures"


def _remove_forgotten_figures() -> None:
    """Remove the folders of masters that were killed, as soon as their last worker is gone too."""
    with suppress(OSError):
        for parent in {_MEMORY, Path(tempfile.gettempdir())}:
            for directory in parent.glob(f"{_FIGURES_PREFIX}*"):
                with suppress(OSError):
                    if directory.lstat().st_uid != os.geteuid():
                        continue
                    mark = os.open(directory / _IN_USE, os.O_RDWR | os.O_NOFOLLOW)
                    try:
                        if _lock(mark):
                            shutil.rmtree(directory, ignore_errors=True)
                    finally:
                        os.close(mark)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
