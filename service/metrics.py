"""Figures for Prometheus: GET /metrics, of all workers together. They tell of load and delay, never of money.

prometheus-client keeps each worker's figures in a file of the folder that gunicorn.conf.py names, and adds them up when
it is asked. One observation costs 1 to 2 µs, so that calls are observed, not each request in them.
"""

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import falcon.asgi
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, mmap_dict, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

log = structlog.get_logger()


class _Figures(mmap_dict.MmapedDict):
    """A file of figures whose pages are reserved, and memory of this process alone where there is no room for them.

    prometheus-client maps files with holes: whoever writes to a hole on a full disk is killed by SIGBUS.
    """

    _ENTRY_BYTES_MAX = 64
    """What a figure takes besides its name, rounded up."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:  # as in prometheus-client
        try:
            if not read_mode:
                with open(filename, "ab") as file:  # noqa: PTH123 - a str
                    os.posix_fallocate(file.fileno(), 0, mmap_dict._INITIAL_MMAP_SIZE)
            super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]
        except OSError as error:
            self._fname = filename
            self._positions: dict[str, int] = {}
            self._capacity = mmap_dict._INITIAL_MMAP_SIZE
            self._m = mmap.mmap(-1, self._capacity)
            self._used = 8
            self._keep_here(error)

    def _init_value(self, key: str) -> None:
        while self._used + len(key.encode()) + self._ENTRY_BYTES_MAX > self._capacity:
            self._grow()
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self) -> None:
        larger = 2 * self._capacity
        if self._f is not None:
            try:
                os.posix_fallocate(self._f.fileno(), 0, larger)
                self._m = mmap.mmap(self._f.fileno(), larger)
            except OSError as error:
                self._f.close()
                self._keep_here(error)
        if self._f is None:
            memory = mmap.mmap(-1, larger)
            memory[: self._capacity] = self._m[:]
            self._m = memory
        self._capacity = larger

    def _keep_here(self, error: OSError) -> None:
        """Go on without the file: figures that stood still would be worse than none, and its room helps the others."""
        self._f: Any = None
        with suppress(OSError):
            os.unlink(self._fname)  # noqa: PTH108 - a str
        log.warning("no room for figures: /metrics goes without these of this worker", error=str(error))


values.MmapedDict = _Figures  # type: ignore[attr-defined]
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

FLUSH_ITEMS = Histogram(
    "pgteller_coalescer_flush_items",
    "Requests that went in one call",
    ["function"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500),
)
FLUSH_SECONDS = Histogram("pgteller_coalescer_flush_seconds", "How long a call took", ["function"], buckets=_SECONDS)
WAIT_SECONDS = Histogram(
    "pgteller_coalescer_wait_seconds",
    "How long the request that waited longest had waited when its call began",
    ["function"],
    buckets=_SECONDS,
)
QUEUED = Gauge(
    "pgteller_coalescer_queued", "Requests that wait for a call to begin", ["function"], multiprocess_mode="livesum"
)
REFUSED = Counter("pgteller_coalescer_refused", "Requests answered with 503, the queue being full", ["function"])
LOCKED_ROWS = Gauge(
    "pgteller_locked_rows", "Accounts that somebody keeps locked, so that requests wait", multiprocess_mode="livemax"
)
WAITING_FOR_ROWS = Gauge(
    "pgteller_waiting_for_rows", "Requests that wait until such an account is free", multiprocess_mode="livesum"
)
HTTP_REFUSED = Counter("pgteller_http_refused", "Connections ended for what their clients sent or did not", ["reason"])
REQUESTS = Counter("pgteller_http_requests", "Requests answered", ["method", "route", "status"])


class CoalescerFigures:
    """The figures of one coalescer."""

    def __init__(self, function: str) -> None:
        self.queued = QUEUED.labels(function)
        self.refused = REFUSED.labels(function)
        self._items = FLUSH_ITEMS.labels(function)
        self._seconds = FLUSH_SECONDS.labels(function)
        self._wait = WAIT_SECONDS.labels(function)

    @contextmanager
    def flush(self, items: int, queued: int, since: float) -> Iterator[None]:
        """Observe a call: its size, what it leaves behind in the queue, when its first item came, and its time."""
        began = time.perf_counter()
        self._items.observe(items)
        self._wait.observe(began - since)
        self.queued.set(queued)
        yield
        self._seconds.observe(time.perf_counter() - began)


class RequestFigures:
    """Middleware: counts requests by route. How long each took would cost twice as much, so it is not kept."""

    async def process_response(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: Any, req_succeeded: bool
    ) -> None:
        """Count the request with its outcome."""
        _requests(req.method, req.uri_template, resp.status_code).inc()


@cache
def _requests(method: str, route: str | None, status: int) -> Counter:
    return REQUESTS.labels(method, route or "none", status)


class Metrics:
    """GET /metrics, for whoever can reach the service."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer with the figures of all workers in Prometheus' text format."""
        registry = CollectorRegistry()
        with suppress(ValueError):  # no folder could be made
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        resp.content_type = CONTENT_TYPE_PLAIN_0_0_4
        resp.data = generate_latest(registry)
