"""The gunicorn worker: uvicorn on uvloop and httptools, the fastest of those measured (see benchmarks/)."""

import gc
import os
import signal
import tempfile
from functools import cache
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
        "proxy_headers": False,  # nothing here asks who the client was
    }

    def run(self) -> None:
        """Serve. What was loaded until now stays, and requests leave little behind that only a search would find."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)  # searching as often as Python does by default took a quarter of the time
        super().run()

    async def callback_notify(self) -> None:
        """Say that this worker lives, and stop in good order when its master has died: nobody else would stop it."""
        if os.getppid() != self.ppid:
            signal.raise_signal(signal.SIGTERM)
        await super().callback_notify()


@cache
def figures_directory() -> str:
    """Make the folder of the workers' figures: once, for a reload of gunicorn's settings asks again."""
    return tempfile.mkdtemp(prefix="pgteller-figures-")
