"""The gunicorn worker: uvicorn on uvloop and httptools, the fastest of those measured (see benchmarks/)."""

import os
import signal
from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker


class Worker(UvicornWorker):  # type: ignore[misc]  # it has no types
    """uvicorn's worker with its own choices fixed."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "httptools",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "ws": "none",
    }

    async def callback_notify(self) -> None:
        """Say that this worker lives, and stop in good order when its master has died: nobody else would stop it."""
        if os.getppid() != self.ppid:
            signal.raise_signal(signal.SIGTERM)
        await super().callback_notify()
