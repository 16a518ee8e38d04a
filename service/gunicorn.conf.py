"""gunicorn's settings, all from service.config, and the folder in which the workers' figures meet."""

import fcntl
import os
import shutil
import sys
from typing import Any, NoReturn

from gunicorn.systemd import SD_LISTEN_FDS_START  # type: ignore[import-untyped]

from service import logs
from service.config import SettingError, Settings
from service.worker import GunicornLogger, figures_directory, signs_directory


def _exit(message: object) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(2)


try:
    _settings = Settings.from_environment()
except SettingError as error:
    _exit(error)
if _settings.database_url is None:
    _exit("DATABASE_URL is not set: `pgteller serve` runs a PostgreSQL of its own then, gunicorn does not")
logs.hide(_settings.secrets())

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host  # IPv6
bind = f"{_host}:{_settings.port}"
workers = _settings.workers
worker_class = "service.worker.Worker"
graceful_timeout = _settings.graceful_timeout_seconds
timeout = 30
keepalive = 75
backlog = 2048
proc_name = "pgteller"
worker_tmp_dir = signs_directory()
control_socket_disable = True
logger_class = GunicornLogger
loglevel = "warning" if _settings.log_level == "info" else _settings.log_level
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={figures_directory()}"]


def pre_exec(server: Any) -> None:
    """Let the master after us, on SIGUSR2, find what it needs.

    gunicorn would run its own file as a script, which hides modules of Python behind those beside it. And it has moved
    the sockets that it was given, but tells the next master that they are where systemd puts them.
    """
    server.START_CTX["args"] = [sys.executable, "-m", "gunicorn", *sys.argv[1:]]
    if server.systemd:
        beyond = SD_LISTEN_FDS_START + len(server.LISTENERS)
        copies = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD_CLOEXEC, beyond) for each in server.LISTENERS]
        for descriptor, copy in enumerate(copies, SD_LISTEN_FDS_START):
            os.dup2(copy, descriptor)


def child_exit(server: Any, worker: Any) -> None:
    """Forget what a worker that is gone had waiting; what it has counted stays counted."""
    # Not before raw_env is in force: at its first import prometheus-client decides where the figures are kept.
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(server: Any) -> None:
    """Remove the folder, with the last worker gone."""
    shutil.rmtree(figures_directory(), ignore_errors=True)
