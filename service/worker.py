"""The gunicorn worker: uvicorn on uvloop and httptools, the fastest of those measured (see benchmarks/)."""

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
