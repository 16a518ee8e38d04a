"""uvicorn's HTTP/1.1 with bounds: what a client may send, how long it may take, and how many may come.

Whoever can connect reaches this code, before any API key is looked at. So each connection is bounded in memory by the
bytes and the number of its headers, in time by one deadline, and all of them in number. Beyond a bound the client gets
a problem, as from anywhere else in the service, unless an answer is already on its way.
"""

import asyncio
import itertools
import math
import re
import secrets
from collections import Counter, deque
from typing import Any

import httptools
import msgspec
import structlog
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.config import Settings
from service.errors import Problem, invalid
from service.metrics import HTTP_REFUSED

log = structlog.get_logger()

# Where the parser is. Of a pipeline it may be ahead of the answers.
_BETWEEN, _HEAD, _BODY, _REFUSED = range(4)

_SWEEP_SECONDS = 1.0
_LINGER_SECONDS = 2.0
"""A refused client may go on sending for so long: a reset would take its answer away before it is read."""
_LINGERING_MAX = 64
_STALLED_SECONDS = 2.0
"""A client that has not read for so long loses its place to another that needs one."""
_FEED_BYTES = 4096
"""The parser gets no more at once, so that few pipelined requests are made of it before the first is answered."""
_HEADER_MARKS_BYTES = len(b": \r\n")
_FRAMING_BYTES_MAX = 16_384
_FRAMING_RATIO_MAX = 8
"""Chunks of a byte take six times their body; extensions and trailers may not take more than this."""
_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}\Z", re.ASCII)
_VERSIONS = ("1.1", "1.0")

_Waiting = dict["HttpProtocol", None]
"""Connections in the order in which they began to wait."""


class Connections:
    """All connections of a worker: how many there may be, which go first, and one sweep for all deadlines."""

    def __init__(self, settings: Settings, connections_max: int) -> None:
        self.settings = settings
        self.connections_max = connections_max
        self.newcomers: _Waiting = {}
        """Those that have not sent the whole head of a first request."""
        self.idle: _Waiting = {}
        """Those that have had their answers."""
        self.lingering: _Waiting = {}
        """Those that are refused and not yet gone."""
        self.unread: dict[HttpProtocol, float] = {}
        """Those whose clients do not read their answers, and since when."""
        self._all: set[Any] | None = None
        self._refused: Counter[str] = Counter()
        self._request_ids = (f"{secrets.token_hex(8)}{number:016x}" for number in itertools.count(1))

    def admit(self, protocol: "HttpProtocol") -> bool:
        """Make room for a connection: the oldest newcomer goes, or else the one that has been idle longest.

        When there is neither, one goes whose client has long not read its answer.
        """
        if self._all is None:
            self._all = protocol.connections
            protocol.loop.call_later(_SWEEP_SECONDS, self._sweep, protocol.loop)
        if len(self._all) - len(self.lingering) <= self.connections_max:
            return True
        oldest = next(iter(self.newcomers), None) or next(iter(self.idle), None) or self._stalled(protocol.loop.time())
        if oldest is None:
            return False
        oldest.give_way()
        return True

    def _stalled(self, now: float) -> "HttpProtocol | None":
        protocol, since = next(iter(self.unread.items()), (None, now))
        return protocol if since + _STALLED_SECONDS <= now else None

    def linger(self, protocol: "HttpProtocol") -> None:
        """Keep a refused connection until its client has read the answer, but not too many of them."""
        self.lingering[protocol] = None
        if len(self.lingering) > _LINGERING_MAX:
            oldest = next(iter(self.lingering))
            del self.lingering[oldest]
            oldest.transport.abort()

    def count(self, reason: str) -> None:
        """Count a refusal; the log gets one line for all of a second."""
        HTTP_REFUSED.labels(reason).inc()
        self._refused[reason] += 1

    def request_id(self, headers: list[tuple[bytes, bytes]] | None) -> str:
        """Return the caller's X-Request-ID, or a new one."""
        given = dict(headers or []).get(b"x-request-id", b"")
        return given.decode() if _REQUEST_ID.match(given) else next(self._request_ids)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(_SWEEP_SECONDS, self._sweep, loop)
        now = loop.time()
        for protocol in list(self._all or ()):
            if protocol.deadline <= now or protocol.write_deadline <= now:
                protocol.expire(now)
        if self._refused:
            log.warning("clients refused", reasons=dict(self._refused), connections=len(self._all or ()))
            self._refused.clear()


class _Flow(FlowControl):
    """Reads nothing more while requests of a pipeline wait; uvicorn reads on whenever one reads its body."""

    def __init__(self, transport: asyncio.Transport, pipeline: deque[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        worker_connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.deadline = math.inf
        self.write_deadline = math.inf
        self._among = worker_connections
        self._settings = worker_connections.settings
        self._waiting_in = worker_connections.newcomers
        self._phase = _BETWEEN
        self._head_bytes = 0
        self._wire_bytes = 0
        self._body_bytes = 0
        self._unparsed = b""
        self._is_all = False
        self._upgrade_ignored = False
        self._running: RequestResponseCycle | None = None
        self._fault: tuple[str, Problem] | None = None
        self._answer_later: bytes | None = None

    # ---- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Take the connection, or refuse it."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        if self._among.admit(self):
            self._waiting_in[self] = None
            self.deadline = self.loop.time() + self._settings.first_byte_timeout_seconds
        else:
            self._refuse("connections", Problem("too_many_connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it; a request that is being read learns that there is no more."""
        self._waiting_in.pop(self, None)
        self._among.lingering.pop(self, None)
        self._among.unread.pop(self, None)
        if self._phase == _BODY:
            self.cycle.scope["state"]["body_cut_short"] = True
        self.deadline = self.write_deadline = math.inf
        self._unparsed = b""
        self._phase = _REFUSED
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn marks the last of a pipeline
            self._running.message_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # as in asyncio: whether to keep the connection
        """Answer the whole requests of a client that sends no more, and then end."""
        self._is_all = True
        return self._is_answer_due()

    def _is_answer_due(self) -> bool:
        """Whether a whole request is to be answered, or an earlier answer is still due: one cut short is neither."""
        if self._phase == _REFUSED:
            return self._answer_later is not None
        is_cut_short = self._phase == _BODY and self._running is self.cycle
        return self._running is not None and not self._running.response_complete and not is_cut_short

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        now = self.loop.time()
        self._among.unread[self] = now
        self.write_deadline = now + self._settings.body_timeout_seconds

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._among.unread.pop(self, None)
        self.write_deadline = math.inf

    # ---- what comes in

    def data_received(self, data: bytes) -> None:
        """Parse what came, a piece at a time."""
        if len(data) <= _FEED_BYTES and not self._unparsed:
            self._feed(data)
        elif self._phase != _REFUSED:
            self._unparsed += data
            self._feed_unparsed()

    def _feed_unparsed(self) -> None:
        """Parse what is left, until a request of it has to wait for the answer to an earlier one."""
        data, start = self._unparsed, 0
        while start < len(data) and not self.pipeline and self._phase != _REFUSED:
            self._feed(data[start : start + _FEED_BYTES])
            start += _FEED_BYTES
        self._unparsed = b"" if self._phase == _REFUSED else data[start:]

    def _feed(self, data: bytes) -> None:
        if self._phase == _REFUSED:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refuse(*(self._fault or _malformed(error, data)))
            return
        if self._phase == _HEAD:
            self._check_head(len(data))
        elif self._phase == _BODY:
            # Falcon waits for the first of a body before it asks who this is and how much is to come. It gets that now.
            self.cycle.message_event.set()
            self._check_body(len(data))

    def _check_head(self, size_bytes: int) -> None:
        if self._head_bytes == 0:
            self._wait_for_rest()
        self._head_bytes += size_bytes
        if fault := self._fault_of_head():
            self._refuse(*fault)

    def _fault_of_head(self) -> tuple[str, Problem] | None:
        limits = self._settings
        url_bytes = len(self.url)
        if url_bytes > limits.url_bytes_max:
            return "url_bytes", Problem("url_too_long", limit_bytes=limits.url_bytes_max)
        if len(self.headers) > limits.header_count_max:
            return "header_count", Problem("headers_too_large", limit_count=limits.header_count_max)
        # Of the piece that is parsed any part may be of the head, and another request's may have been counted. So what
        # may be too large is added up; a header that never ends is not among them, and is stopped a little later.
        most_bytes = self._head_bytes - url_bytes + _FEED_BYTES
        if most_bytes > limits.header_bytes_max and (
            most_bytes > limits.header_bytes_max + 3 * _FEED_BYTES
            or sum(len(name) + len(value) + _HEADER_MARKS_BYTES for name, value in self.headers)
            > limits.header_bytes_max
        ):
            return "header_bytes", Problem("headers_too_large", limit_bytes=limits.header_bytes_max)
        return None

    def _check_body(self, size_bytes: int) -> None:
        if self._wire_bytes == 0:
            self._wait_for_rest()
        self._wire_bytes += size_bytes
        body_bytes_max = self._settings.body_bytes_max
        if (
            self._wire_bytes > _FRAMING_BYTES_MAX + _FRAMING_RATIO_MAX * self._body_bytes
            or len(self.headers) > self._settings.header_count_max
        ):
            self._refuse("body_framing", Problem("payload_too_large", limit_bytes=body_bytes_max))
        elif self.cycle.response_complete and self._body_bytes > 2 * body_bytes_max:
            self._among.count("body_bytes")
            self._end()

    def _wait_for_rest(self) -> None:
        """Set the deadline of what has begun: none while requests wait for earlier answers, and nothing is read."""
        settings = self._settings
        seconds = settings.headers_timeout_seconds if self._phase == _HEAD else settings.body_timeout_seconds
        self.deadline = math.inf if self.pipeline else self.loop.time() + seconds

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read the request again without its Upgrade header: the parser takes what follows one for another protocol."""
        self._upgrade_ignored = False
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._feed(b"".join([*head, b"\r\n", rest]))

    # ---- what the parser says

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._phase = _HEAD
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is at fault."""
        self._fault = self._fault_of_head()
        if b"#" in self.url:
            self._fault = "malformed", invalid("request", "has a # in its path or query, which is written %23")
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._fault = "malformed", Problem("method_not_allowed", headers={"Allow": ""})
            self._upgrade_ignored = True
        if self._fault is not None:
            raise ValueError(self._fault[0])  # stops the parser
        if self._upgrade_ignored:
            return
        super().on_headers_complete()
        self.headers = []  # trailers are no headers
        self._phase = _BODY
        self._wire_bytes = self._body_bytes = 0
        self._waiting_in.pop(self, None)
        if self.scope["http_version"] not in _VERSIONS:
            # To ask the parser beforehand would cost every request something. This one has not begun, and is told at
            # once that its client is gone; before that Falcon looks at the version.
            self.scope["http_version"] = _VERSIONS[0]
            self._fault = "http_version", Problem("http_version_not_supported")
            raise ValueError(self._fault[0])

    def on_body(self, body: bytes) -> None:
        """Count what is body, which the rest of what came is not."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the answer, or for the next request when it was given before."""
        if self._upgrade_ignored:
            return
        super().on_message_complete()
        self._phase = _BETWEEN
        if self.cycle.response_complete:
            self._rest()
        else:
            self.deadline = math.inf

    # ---- what goes out

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on to the next request, as uvicorn does, but with no timer of its own for each."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self.write_deadline = self.loop.time() + self._settings.body_timeout_seconds
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if self._phase in (_HEAD, _BODY):
                self._wait_for_rest()
            self._feed_unparsed()
        elif self._answer_later is not None:
            self._write_last(self._answer_later)
            self._answer_later = None
            return
        elif self._phase == _BETWEEN:
            self._rest()
        else:
            self._wait_in(self._among.idle)
        if self._is_all and not self._is_answer_due():
            self._end_answered()
            return
        self.flow.resume_reading()

    def _rest(self) -> None:
        self.deadline = self.loop.time() + self.timeout_keep_alive
        self._waiting_in = self._among.idle  # a request was whole, so it waited nowhere
        self._waiting_in[self] = None

    def _wait_in(self, waiting: _Waiting) -> None:
        self._waiting_in.pop(self, None)
        self._waiting_in = waiting
        waiting[self] = None

    # ---- the end

    def give_way(self) -> None:
        """End in favour of a new connection."""
        if self in self._among.unread and self not in self._waiting_in:
            self._among.count("displaced")
            del self._among.unread[self]
            self.transport.abort()
        elif self._phase == _BETWEEN and self._waiting_in is self._among.idle:
            self._among.count("displaced")
            self._end()
        else:
            self._refuse("displaced", Problem("request_too_slow", "There were too many connections to wait longer."))

    def expire(self, now: float) -> None:
        """End at the deadline. A kept connection just ends: an answer would be taken for that to the next request."""
        if self._phase == _REFUSED or self.write_deadline <= now:
            if self._phase != _REFUSED:
                self._among.count("answer_time")
            self.transport.abort()
        elif self._phase == _HEAD:
            seconds = self._settings.headers_timeout_seconds
            self._refuse("headers_time", Problem("request_too_slow", limit_seconds=seconds))
        elif self._phase == _BODY:
            seconds = self._settings.body_timeout_seconds
            self._refuse("body_time", Problem("request_too_slow", limit_seconds=seconds))
        elif self._waiting_in is self._among.newcomers:
            seconds = self._settings.first_byte_timeout_seconds
            self._refuse("first_byte_time", Problem("request_too_slow", limit_seconds=seconds))
        else:
            self._end()

    def _refuse(self, reason: str, problem: Problem) -> None:
        """Answer with a problem after the answers to all earlier requests, and read no more."""
        self._among.count(reason)
        answer = self._last_answer(problem)
        cycle: RequestResponseCycle | None = self.cycle
        if self._phase == _BODY:
            if self.pipeline:
                self.pipeline.popleft()  # the request at fault, which has not begun
            elif self.cycle.response_started:
                self._end()
                return
            else:
                self.cycle.scope["state"]["body_cut_short"] = True
                self.cycle.disconnected = True
                self.cycle.message_event.set()
                cycle = None
        self._phase = _REFUSED
        self._unparsed = b""
        if cycle is None or cycle.response_complete:
            self._write_last(answer)
        else:
            self._waiting_in.pop(self, None)
            self.deadline = math.inf
            self._answer_later = answer

    def _last_answer(self, problem: Problem) -> bytes:
        request_id = self._among.request_id(self.headers)
        body = msgspec.json.encode({**problem.body, "request_id": request_id})
        headers = {
            "content-type": "application/problem+json",
            "content-length": str(len(body)),
            "x-request-id": request_id,
            "connection": "close",
            **problem.headers,
        }
        lines = [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        lines += [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
        is_head = self._phase in (_HEAD, _BODY) and self.parser.get_method() == b"HEAD"
        return b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", b"" if is_head else body])

    def _write_last(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.write_eof()
        self._linger()
        self.flow.resume_reading()

    def _end(self) -> None:
        self._phase = _REFUSED
        self._unparsed = b""
        self.transport.close()
        self._linger()

    def _end_answered(self) -> None:
        """End when the client has read its answers, for which it has time."""
        if self._phase == _BODY:
            self.cycle.scope["state"]["body_cut_short"] = True
        self._phase = _REFUSED
        self._waiting_in.pop(self, None)
        self.deadline = self.loop.time() + self._settings.body_timeout_seconds
        self.transport.close()

    def _linger(self) -> None:
        self._waiting_in.pop(self, None)
        self._among.unread.pop(self, None)
        self.deadline = self.loop.time() + _LINGER_SECONDS
        self._among.linger(self)


def _malformed(error: httptools.HttpParserError, data: bytes) -> tuple[str, Problem]:
    if data.startswith(b"PRI * HTTP/2"):
        return "http_version", Problem("http_version_not_supported")
    said = "is not valid HTTP"
    if not isinstance(error, httptools.HttpParserCallbackError):
        said += f": {error}"
    return "malformed", invalid("request", said)
