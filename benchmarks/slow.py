"""Rows that somebody keeps locked: what it does to requests that name others, and what those get that wait.

Requests come at an even rate, whether or not earlier ones were answered, so that a request's time is that from when it
was to be sent: a service that stands still for a second shows it in every request of that second.
"""

import asyncio
import itertools
import json
import random
import secrets
import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.load import LoadError, Measure, quantile
from benchmarks.plan import Group, Workload, interleave
from benchmarks.server import USED, Bench

UNRELATED_CONNECTIONS = 50
UNRELATED_PER_SECOND = 300
ANSWER_SECONDS_MAX = 60.0
"""A client gives a request up after this."""
BEGIN_SECONDS = 0.5
"""Unrelated requests begin so long after the first that wait."""
ARRIVAL = 0.1
"""Those that wait arrive one after another in this first part of the time."""
AFTER_SECONDS = 1
"""They go on so long after the locks are let go and all who waited were answered."""
RETRY_SECONDS = 1
"""As the header Retry-After says."""

BASE = "slow_none"
TRANSFERS, HOLDS = "/v1/transfers", "/v1/holds"
SLOW = (
    Workload(BASE, "unrelated requests, nothing is locked", None, "pgteller", UNRELATED_CONNECTIONS),
    Workload(
        "slow_row", "unrelated requests, 1 row is locked, 200 clients wait for it", None, "pgteller",
        UNRELATED_CONNECTIONS, variables={"LOCKED": 1, "WAITING": 200, "PATH": TRANSFERS},
    ),
    Workload(
        "slow_rows", "unrelated requests, 50 rows are locked, 200 clients wait for them", None, "pgteller",
        UNRELATED_CONNECTIONS, variables={"LOCKED": 50, "WAITING": 200, "PATH": TRANSFERS},
    ),
    Workload(
        "slow_holds", "unrelated requests, 1 row is locked, 40 holds wait for it", None, "pgteller",
        UNRELATED_CONNECTIONS, variables={"LOCKED": 1, "WAITING": 40, "PATH": HOLDS},
    ),
)  # fmt: skip
TABLES = {"slow": SLOW}


class Answer(NamedTuple):
    """What a request got: `200`, `503 overloaded`, or the name of the exception instead; and when."""

    what: str
    sent_at: float
    seconds: float

    @property
    def succeeded(self) -> bool:
        """Whether it was posted, or told."""
        return self.what.startswith("2")


class _Connection:
    """One client of HTTP, which sends a request when the one before is answered, as small as can be."""

    def __init__(self, url: str, key: str) -> None:
        self._address = urlsplit(url)
        self._head = f"Host: {self._address.netloc}\r\nAuthorization: Bearer {key}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        """Hang up; the next request connects anew."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def send(
        self, path: str, body: dict[str, int] | None = None, key: str = "", due_at: float | None = None
    ) -> Answer:
        """Send a POST, or without a body a GET. due_at: when it was to be sent, if that was earlier than now."""
        sent_at = due_at or _now()
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                what = await self._exchange(path, body, key)
        except (OSError, EOFError) as error:  # a TimeoutError is an OSError
            self.close()
            what = type(error).__name__
        return Answer(what, sent_at, _now() - sent_at)

    async def _exchange(self, path: str, body: dict[str, int] | None, key: str) -> str:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._address.hostname, self._address.port)
        reader, writer = self._streams
        if body is None:
            request = f"GET {path} HTTP/1.1\r\n{self._head}\r\n"
        else:
            content = json.dumps(body)
            request = f"POST {path} HTTP/1.1\r\n{self._head}Content-Type: application/json\r\n"
            request += f"Idempotency-Key: {key}\r\nContent-Length: {len(content)}\r\n\r\n{content}"
        writer.write(request.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = head.partition("content-length:")[2].partition("\r\n")[0]
        answer = await reader.readexactly(int(length or 0))
        status = head[9:12]
        return status if status.startswith("2") else f"{status} {json.loads(answer).get('code', '')}".strip()


@dataclass
class _Round:
    """What one run of one workload saw."""

    released_at: float = 0.0
    unrelated: list[Answer] = field(default_factory=list)
    waiting: list[Answer] = field(default_factory=list)
    probes: list[Answer] = field(default_factory=list)
    """Of /health/ready, one each second."""


class _Run:
    """The clients of one run: those who name locked accounts, and those who do not.

    Who waits names a locked account and one below it, which a transfer locks first; the others name accounts above.
    """

    def __init__(self, bench: Bench, url: str, workload: Workload, number: int) -> None:
        self._bench = bench
        self._url = url
        self._workload = workload
        self._lock_seconds = bench.options.lock_seconds if number else bench.options.warm_up_seconds
        self._random = random.Random(bench.options.seed + number)  # noqa: S311 - of a benchmark
        self._name, self._numbers = secrets.token_hex(6), itertools.count()
        accounts = bench.accounts
        middle, locked = (accounts.first + accounts.last) // 2, int(workload.variables.get("LOCKED", 0))
        self._locked = range(middle, middle + locked)
        self._below, self._above = range(accounts.first, middle), range(middle + locked, accounts.last + 1)
        self._stop = asyncio.Event()
        self.seen = _Round()

    async def run(self) -> None:
        """Lock, send, let go, and return when all who waited are answered, and all that was sent besides."""
        with self._bench.connect("bank") as owner:
            owner.execute("begin")
            owner.execute("select from bank.account where account_id = any(%s) for update", [list(self._locked)])
            async with asyncio.TaskGroup() as group:
                clients = range(int(self._workload.variables.get("WAITING", 0)))
                waiting = [group.create_task(self._wait(client)) for client in clients]
                for client in range(self._workload.connections):
                    group.create_task(self._send_unrelated(client))
                group.create_task(self._probe())
                await asyncio.sleep(self._lock_seconds)
                owner.execute("rollback")
                self.seen.released_at = _now()
                await asyncio.gather(*waiting)
                await asyncio.sleep(AFTER_SECONDS)
                self._stop.set()

    def _key(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    async def _wait(self, client: int) -> None:
        """Ask for a locked account until it is granted, each time with the same key."""
        path, locked = str(self._workload.variables["PATH"]), self._locked[client % len(self._locked)]
        body = {"account_id": locked, "amount_minor": 1}
        if path == TRANSFERS:
            other = self._random.choice(self._below)
            body = {"debit_account_id": locked, "credit_account_id": other, "amount_minor": 1}
        key = self._key()
        # Not all at once, for then one call of the service would take them all.
        await asyncio.sleep(client / int(self._workload.variables["WAITING"]) * ARRIVAL * self._lock_seconds)
        with closing(_Connection(self._url, self._bench.key)) as connection:
            while not self.seen.released_at or _now() < self.seen.released_at + ANSWER_SECONDS_MAX:
                answer = await connection.send(path, body, key)
                self.seen.waiting.append(answer)
                if answer.succeeded:
                    return
                await asyncio.sleep(RETRY_SECONDS)

    async def _send_unrelated(self, client: int) -> None:
        """Send transfers and enquiries in turn, at this client's share of the rate."""
        begin_at = _now() + BEGIN_SECONDS
        with closing(_Connection(self._url, self._bench.key)) as connection:
            for number in itertools.count():
                due_at = begin_at + (number * self._workload.connections + client) / UNRELATED_PER_SECOND
                if (early_seconds := due_at - _now()) > 0:
                    await asyncio.sleep(early_seconds)
                    due_at = _now()  # what the timer is late is not the service's
                if self._stop.is_set():
                    return
                one, two = self._random.sample(self._above, 2)
                if number % 2:
                    answer = await connection.send(f"/v1/accounts/{one}/balance", due_at=due_at)
                else:
                    body = {"debit_account_id": one, "credit_account_id": two, "amount_minor": 1}
                    answer = await connection.send(TRANSFERS, body, self._key(), due_at)
                self.seen.unrelated.append(answer)

    async def _probe(self) -> None:
        """Ask each second whether the service is ready."""
        with closing(_Connection(self._url, self._bench.key)) as connection:
            while not self._stop.is_set():
                self.seen.probes.append(await connection.send("/health/ready"))
                await asyncio.sleep(1)


def run_group(bench: Bench) -> Group:
    """Measure each workload in turn, and say what those got who waited."""
    group, rounds = Group(), {workload.name: list[_Round]() for workload in SLOW}
    bench.create("bank", USED)

    def measure(workload: Workload, number: int) -> Measure:
        run = _Run(bench, url, workload, number)
        asyncio.run(run.run())
        if number:
            rounds[workload.name].append(run.seen)
        return _measured(run.seen.unrelated)

    with bench.pgteller("bank") as url:
        bench.checkpoint()
        workloads = [workload for workload in SLOW if bench.options.wants("slow", workload)]
        interleave(group, workloads, bench.options.round_numbers("slow"), measure)
    for name, runs in group.runs.items():
        p99_ms, base_ms = (_median_p99_ms(measured) for measured in (runs, group.runs.get(BASE, runs)))
        group.figures[f"{name}: p99 / that with nothing locked"] = p99_ms / base_ms
        group.figures |= {f"{name}: {figure}": value for figure, value in _figures(rounds[name]).items()}
    for figure, value in group.figures.items():
        print(f"  {figure:62} {value:10,.2f}", flush=True)
    group.violations, group.rejected = bench.verify("bank")
    bench.drop("bank")
    return group


def _now() -> float:
    return asyncio.get_running_loop().time()


def _measured(answers: Sequence[Answer]) -> Measure:
    """Return what is kept of the unrelated requests of a run."""
    seconds = sorted(answer.seconds for answer in answers if answer.succeeded)
    if not seconds:
        raise LoadError(f"no unrelated request was answered: {Counter(answer.what for answer in answers)}")
    elapsed = max(answer.sent_at for answer in answers) - min(answer.sent_at for answer in answers)
    return Measure(
        rate=len(seconds) / elapsed,
        calls=len(seconds),
        failed=len(answers) - len(seconds),
        seconds=elapsed,
        p50_ms=quantile(seconds, 0.5) * 1000,
        p99_ms=quantile(seconds, 0.99) * 1000,
        max_ms=seconds[-1] * 1000,
    )


def _median_p99_ms(runs: Sequence[Measure]) -> float:
    return statistics.median(run.p99_ms or 0 for run in runs)


def _figures(rounds: Sequence[_Round]) -> dict[str, float]:
    """Return how often each answer came and after how long at the latest, by who asked."""
    figures: dict[str, float] = {}
    for who, answers in (
        ("unrelated", [answer for seen in rounds for answer in seen.unrelated if not answer.succeeded]),
        ("waiting", [answer for seen in rounds for answer in seen.waiting]),
        ("ready", [answer for seen in rounds for answer in seen.probes]),
    ):
        for what, number in Counter(answer.what for answer in answers).most_common():
            figures[f"{who}, {what}"] = number
            figures[f"{who}, {what}, ms at most"] = 1000 * max(a.seconds for a in answers if a.what == what)
    if granted := [after for seen in rounds if (after := _granted_after(seen))]:
        figures["waiting, half granted after release, ms"] = 1000 * max(quantile(after, 0.5) for after in granted)
        figures["waiting, all granted after release, ms"] = 1000 * max(after[-1] for after in granted)
    return figures


def _granted_after(seen: _Round) -> list[float]:
    """Return, ascending, how long after the release each who waited was granted it."""
    granted_at = [answer.sent_at + answer.seconds for answer in seen.waiting if answer.succeeded]
    return sorted(moment - seen.released_at for moment in granted_at)
