"""A small HTTP/1.1 client for asyncio: one connection, one request at a time, kept open between requests.

A general client took more of the processor than the service that it talked to.
"""

import asyncio
import json
import ssl
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httptools

REQUEST_SECONDS_MAX = 60.0
_READ_BYTES = 65_536


class ConnectionFailedError(RuntimeError):
    """The request got no answer; whether it was carried out is not known."""


class Response:
    """What the server answered; also the listener of the parser that reads it."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self.complete = False
        self.keep_alive = False
        """Whether the server takes another request on the connection."""

    def feed(self, data: bytes) -> None:
        """Take what came over the wire; raises httptools.HttpParserError when it is not HTTP."""
        self._parser.feed_data(data)

    @property
    def status(self) -> int:
        """The status code, such as 201."""
        return int(self._parser.get_status_code())

    @cached_property
    def document(self) -> dict[str, Any]:
        """The JSON object in the body; empty when there is none, as from a proxy on the way."""
        try:
            decoded = json.loads(b"".join(self._parts))
        except ValueError:
            return {}
        return decoded if isinstance(decoded, dict) else {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header, by its name in lower case."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, part: bytes) -> None:
        """Note a part of the body."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Note that nothing is missing."""
        self.complete = True
        self.keep_alive = self._parser.should_keep_alive()  # which the parser knows only now


class Connection:
    """A connection to the server of a base URL, opened when it is needed."""

    def __init__(self, base_url: str, headers: dict[str, str]) -> None:
        """Prepare a connection. base_url: http or https, a path allowed. headers: sent with each request."""
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._path = parts.path.rstrip("/")
        self._headers = {"Host": parts.netloc.rpartition("@")[2], **headers}
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Response:
        """Send a request, with `body` as JSON, and return the answer, whatever its status.

        Raises ConnectionFailedError when there is none within REQUEST_SECONDS_MAX.
        """
        content = b"" if body is None else json.dumps(body).encode()
        sent = {**self._headers, **(headers or {}), "Content-Length": str(len(content))}
        if body is not None:
            sent["Content-Type"] = "application/json"
        lines = [
            f"{method} {self._path}{path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in sent.items()),
        ]
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                response = await self._exchange("\r\n".join([*lines, "", ""]).encode("latin-1") + content)
        except (OSError, httptools.HttpParserError) as error:
            self.close()
            raise ConnectionFailedError(str(error) or type(error).__name__) from error
        except BaseException:  # cancelled: an answer may still come, and would be taken for the next one's
            self.close()
            raise
        if not response.keep_alive:
            self.close()
        return response

    async def _exchange(self, message: bytes) -> Response:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._ssl)
        reader, writer = self._streams
        writer.write(message)
        response = Response()
        while not response.complete:
            data = await reader.read(_READ_BYTES)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            response.feed(data)
        return response

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None
