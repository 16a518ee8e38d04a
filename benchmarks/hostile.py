"""What clients who mean harm cost a worker in memory, and what they are answered. It needs no API key.

`WEB_CONCURRENCY=1 pgteller serve` in one terminal, and in another
`python -m benchmarks.hostile 127.0.0.1:8000 --worker PID`.
"""

import argparse
import contextlib
import itertools
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

BYTES_MAX = 150_000_000
"""What an endless request ends at, for servers that would take more than the machine has."""
SAMPLE_SECONDS = 0.05
LINE = b"GET /health/live HTTP/1.1\r\nHost: bank\r\n"
CHUNKED = b"POST /v1/transfers HTTP/1.1\r\nHost: bank\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE_BYTES = 65_536


@dataclass(frozen=True)
class Target:
    """The service, and how long to trouble it."""

    address: tuple[str, int]
    seconds: float
    half_open: int

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=5)


def endless(begin: bytes, piece: bytes, *, until_answered: bool = True) -> Callable[[Target], str]:
    """Send this and then more of the same, until there is an answer or nothing more is taken."""
    many = piece * (PIECE_BYTES // len(piece))

    def attack(target: Target) -> str:
        pieces = itertools.chain([begin], itertools.repeat(many, BYTES_MAX // len(many)))
        return _send(target, pieces, until_answered=until_answered)

    return attack


def trickle(begin: bytes, piece: bytes) -> Callable[[Target], str]:
    """Send this and then a piece a second."""

    def pieces() -> Iterator[bytes]:
        yield begin
        while True:
            time.sleep(1)
            yield piece

    return lambda target: _send(target, pieces())


def half_open(target: Target) -> str:
    """Open connections that send half a head, and ask for /health/live on one more."""
    with contextlib.ExitStack() as stack:
        for _ in range(target.half_open):
            connection = stack.enter_context(target.connect())
            connection.sendall(LINE)
        with target.connect() as connection:
            connection.sendall(LINE + b"\r\n")
            live = _answer(connection, 5)
        return f"/health/live: {live}"


def _send(target: Target, pieces: Iterable[bytes], *, until_answered: bool = True) -> str:
    deadline = time.monotonic() + target.seconds
    with target.connect() as connection:
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
                answered = until_answered and select.select([connection], [], [], 0)[0]
                if answered or time.monotonic() > deadline:
                    break
        return _answer(connection, max(0.5, deadline - time.monotonic()))


def _answer(connection: socket.socket, seconds: float) -> str:
    connection.settimeout(seconds)
    try:
        return connection.recv(1000).partition(b"\r\n")[0].decode() or "closed"
    except TimeoutError:
        return "none"
    except OSError as error:
        return type(error).__name__


ATTACKS: dict[str, Callable[[Target], str]] = {
    "endless headers": endless(LINE, b"a: b\r\n"),
    "endless value of a header": endless(LINE + b"X: ", b"a"),
    "endless URL": endless(b"GET /", b"a"),
    "endless chunk extension": endless(CHUNKED + b"1;", b"a"),
    "endless trailer": endless(CHUNKED + b"0\r\nX: ", b"a"),
    "endless body": endless(CHUNKED, b"400\r\n" + b" " * 1024 + b"\r\n"),
    "endless pipeline, answers unread": endless(b"", LINE + b"\r\n", until_answered=False),
    "a byte of headers a second": trickle(LINE + b"X: ", b"a"),
    "a byte of body a second": trickle(CHUNKED, b"1\r\n \r\n"),
    "half-open connections": half_open,
}


def measure(attack: Callable[[Target], str], target: Target, worker: int) -> tuple[float, str]:
    """Return by how many MB the worker grew at most during an attack, and the answer."""
    before = peak = _rss_mb(worker)
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, _rss_mb(worker))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        answer = attack(target)
    except OSError as error:
        answer = f"{type(error).__name__}: {error}"
    finally:
        done.set()
        sampler.join()
    return max(peak, _rss_mb(worker)) - before, answer


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    """Run every attack and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="HOST:PORT of the service")
    parser.add_argument("--worker", type=int, required=True, help="pid of its only worker")
    parser.add_argument("--seconds", type=float, default=10, help="of each attack")
    parser.add_argument("--half-open", type=int, default=5000, help="connections")
    options = parser.parse_args()
    host, _, port = options.address.rpartition(":")
    target = Target((host, int(port)), options.seconds, options.half_open)
    print("| attack | memory, MB | answer |\n| --- | ---: | --- |")
    for name, attack in ATTACKS.items():
        grown_mb, answer = measure(attack, target, options.worker)
        print(f"| {name} | {grown_mb:+,.0f} | {answer} |", flush=True)


if __name__ == "__main__":
    main()
