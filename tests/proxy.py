"""A forwarder before PostgreSQL's socket that can fall silent, as a firewall that has forgotten its connections."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from tests.conftest import Bank

_BYTES = 65536


class Proxy:
    """Forwards what is sent to a folder's socket. While it is silent it takes everything and passes on nothing."""

    def __init__(self, directory: Path, target: Path) -> None:
        self.directory = directory
        self.silent = threading.Event()
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / target.name))
        self._listener.listen(128)
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End every connection."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._target))
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        lost = False
        with suppress(OSError):
            while data := source.recv(_BYTES):
                lost = lost or self.silent.is_set()
                if not lost:
                    sink.sendall(data)
            if not lost:
                sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxied(bank: Bank, directory: Path) -> Iterator[tuple[Proxy, str]]:
    """Give the forwarder, and the URL of the service through it."""
    with bank.connect() as connection:
        target = Path(connection.info.host, f".s.PGSQL.{connection.info.port}")
    proxy = Proxy(directory, target)
    try:
        yield proxy, bank.app_url.replace(quote(str(target.parent), safe=""), quote(str(directory), safe=""))
    finally:
        proxy.close()
