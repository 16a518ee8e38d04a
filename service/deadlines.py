"""The one deadline of a request: over queues, the pool, and all attempts."""

import time
from contextvars import ContextVar

_until: ContextVar[float | None] = ContextVar("until", default=None)


def begin(timeout_seconds: float) -> None:
    """Start the clock of the request in hand."""
    _until.set(time.monotonic() + timeout_seconds)


def extend(seconds: float) -> None:
    """Move the deadline by what the client itself took, for its body."""
    if (until := _until.get()) is not None:
        _until.set(until + seconds)


def current(timeout_seconds: float) -> float:
    """Return the deadline, of time.monotonic(); outside of a request it is that many seconds away."""
    until = _until.get()
    return time.monotonic() + timeout_seconds if until is None else until
