"""The log of the service: what is written to it never stops a request, whoever reads it or does not.

Lines go through a thread: a pipe that nobody reads blocks whoever writes to it, and a full disk is an error. Neither is
a reason not to serve. What finds no room is dropped.
"""

import asyncio
import atexit
import io
import logging
import os
import queue
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO, cast

import structlog

from service.database_url import without

_LINES_MAX = 1000
"""So many may wait to be written."""
_FINISH_SECONDS = 1.0
_FAILURES_SECONDS = 1.0
"""Of requests that fail for one reason the log has one line in this time."""


_secrets: set[str] = set()


def hide(secrets: set[str]) -> None:
    """Let nothing that is written from now on show these texts, whoever says it, also in a traceback."""
    _secrets.update(secrets)


class Output(io.TextIOBase):
    """A text file for log handlers that neither blocks nor raises."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._has_thread = False
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # a thread does not survive it
        atexit.register(self._finish)

    def write(self, text: str) -> int:
        """Have it written soon."""
        text = without(text, _secrets)
        if self._lines.qsize() < _LINES_MAX:
            self._lines.put(text)
        if not self._has_thread:
            self._has_thread = True
            threading.Thread(target=self._write_lines, args=[self._lines], daemon=True, name="log").start()
        return len(text)

    def _begin(self) -> None:
        self._lines: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._has_thread = False

    def _write_lines(self, lines: queue.SimpleQueue[str | threading.Event]) -> None:
        while True:
            line = lines.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            data = line.encode(errors="backslashreplace")
            with suppress(OSError):
                while data:
                    data = data[os.write(self._descriptor, data) :]

    def _finish(self) -> None:
        """Let what was said last be written before the process ends."""
        if self._has_thread:
            written = threading.Event()
            self._lines.put(written)
            written.wait(_FINISH_SECONDS)


STDOUT = cast(TextIO, Output(1))
STDERR = cast(TextIO, Output(2))


def configure(level: str) -> None:
    """Set up the log of a worker: JSON on standard output; what libraries say, on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=STDOUT),
    )
    logging.lastResort = logging.StreamHandler(STDERR)
    logging.lastResort.setLevel(logging.WARNING)
    # It warns of what it does not raise: what follows from an error that it has raised, and that is in the log.
    logging.getLogger("psycopg").setLevel(logging.ERROR)


@dataclass
class _Failures:
    count: int
    example: dict[str, Any]


class FailureLog:
    """Failed requests by the code of their problem: the first at once, then a line a second while there are more."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._failures: dict[str, _Failures] = {}

    def add(self, code: str, **example: Any) -> None:
        """Log a failed request, or count it with others. example: what the line says of one of them."""
        if (failures := self._failures.get(code)) is None:
            self._failures[code] = _Failures(1, example)
            self._say(code)
        else:
            failures.count += 1
            failures.example = example

    def _say(self, code: str) -> None:
        failures = self._failures[code]
        if failures.count == 0:
            del self._failures[code]
            return
        self._log.warning(code, requests=failures.count, **failures.example)
        failures.count = 0
        asyncio.get_running_loop().call_later(_FAILURES_SECONDS, self._say, code)
