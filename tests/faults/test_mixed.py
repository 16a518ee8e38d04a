"""Faults of every kind while clients mix every kind of request, over HTTP and over SQL.

Things are killed with kill -9, stand still, are locked, take no writes, or have no room. A quarter of the clients are
bystanders: they have accounts of their own, which no fault is about, and a locked row must not stop them.

For the long run by hand, from 60 s on, which has all faults, and longer ones:
PGTELLER_FAULT_SECONDS=1800 PGTELLER_FAULT_CLIENTS=50 .venv/bin/pytest tests/faults/test_mixed.py -s
PGTELLER_FAULT_SEED draws the same requests again; how they interleave is another matter.
"""

import os
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import pytest

from tests.conftest import Connection
from tests.faults.disk import Disk, small_disk
from tests.faults.disturbances import (
    fill_disk,
    lock_row,
    make_read_only,
    stop_backend,
    stop_postmaster,
    stop_worker,
)
from tests.faults.scene import (
    CLIENT,
    RECOVERY_SECONDS_MAX,
    RETRY_SECONDS,
    SECONDS,
    Scene,
    kill_backend,
    kill_postmaster,
    kill_worker,
    running,
)
from tests.faults.timeline import ROW_LOCK, WORKER_STOPS, Attempt, Window, effects, overlong, stopped_by_a_lock, table
from tests.faults.traffic import (
    BRANCH,
    KINDS,
    MAIN,
    Again,
    Answer,
    Client,
    OverHttp,
    OverSql,
    Request,
    World,
    Wrong,
    seen,
)
from tests.helpers import Row, call, open_account
from tests.http_server import create_key, violations, wait_for

CLIENTS = int(os.environ.get("PGTELLER_FAULT_CLIENTS", "12"))
SEED = int(os.environ.get("PGTELLER_FAULT_SEED", "0")) or random.randrange(1, 2**32)  # noqa: S311 - of a test
LONG = SECONDS >= 60
STEPS = (100, 500) if LONG else (50, 100)  # answers between two faults
BYSTANDERS_ONE_IN = 4
READ_ONLY_SECONDS = 60.0  # once in the long run
INSIST_SECONDS_MAX = 2 * READ_ONLY_SECONDS + RECOVERY_SECONDS_MAX
RETRY_SECONDS_MAX = 0.2
ARRIVAL_SECONDS = 0.5  # within which those come that name a locked account
OPENING_MINOR = 100_000
REPLAYS = 300
DEADLOCKS_ONE_IN = 200
IMPATIENT = 0.03  # of the requests are given up at once, and sent again while the first attempt is under way
IMPATIENT_SECONDS = 0.02

READ_ONLY_LONG, DISK_FULL = "read-only for long", "disk full"
ONCE = {READ_ONLY_LONG, DISK_FULL}


@pytest.fixture
def disk() -> Iterator[Disk | None]:
    """A small disk for the server in the long run, if we may mount one."""
    if not LONG:
        yield None
        return
    with small_disk() as disk:
        yield disk


@pytest.fixture
def scene(disk: Disk | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A server and a service of the test's own, the server on the small disk if there is one."""
    if disk is None:
        with running(tmp_path_factory.mktemp("postgresql")) as scene:
            yield scene
    else:
        with running(disk.path / "postgresql", max_wal_size="256MB") as scene:
            yield scene


@dataclass
class Record:
    """What one client saw."""

    answers: list[tuple[Request, Answer]] = field(default_factory=list)
    retried: Counter[str] = field(default_factory=Counter)
    attempts: list[Attempt] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Answers that are never right."""


class Traffic:
    """The clients: each has both ways to send a request, and draws one for every attempt."""

    def __init__(self, scene: Scene, world: World, world_of_bystanders: World) -> None:
        self.scene = scene
        self.world = world
        self.world_of_bystanders = world_of_bystanders
        self.keys = {MAIN: scene.key, BRANCH: create_key(scene.bank, ledger_id=BRANCH)[0]}
        self.records = [Record() for _ in range(CLIENTS)]
        self.stop = threading.Event()
        self.crowded: int | None = None
        """An account that all but the bystanders name while it is locked, over HTTP."""

    def run(self, number: int) -> None:
        """Send until told to stop, and then finish what was begun."""
        world = self.world_of_bystanders if is_bystander(number) else self.world
        client, record = Client(world, f"{SEED}-{number}"), self.records[number]
        http, sql = OverHttp(self.scene.http, self.keys), OverSql(self.scene.bank)
        with closing(http), closing(sql):
            for request in client.requests():
                if self.stop.is_set():
                    return
                ways: tuple[OverHttp | OverSql, ...] = (http, sql)
                if (crowded := self.crowded) is not None and world is self.world:
                    time.sleep(client.random.uniform(0, ARRIVAL_SECONDS))  # at once, one call would take them all
                    request, ways = client.naming(request.key, crowded), (http,)  # noqa: PLW2901
                answer = self.insist(request, client.random, number, ways)
                record.answers.append((request, answer))
                world.learn(request, answer)

    def insist(
        self, request: Request, draw: random.Random, number: int, ways: tuple[OverHttp | OverSql, ...]
    ) -> Answer:
        """Send it until the answer is final."""
        record, pause_seconds = self.records[number], RETRY_SECONDS
        deadline = time.monotonic() + INSIST_SECONDS_MAX
        timeout_seconds = IMPATIENT_SECONDS if draw.random() < IMPATIENT else None
        while True:
            way = draw.choice(ways)
            began_at = time.monotonic()
            try:
                answer: Answer | Again = way.send(request, timeout_seconds)
            except Again as again:
                answer = again
            what = str(answer) if isinstance(answer, Again) else answer.code or "success"
            is_final = isinstance(answer, Answer)
            attempt = Attempt(
                number, type(way).__name__, began_at, time.monotonic(), what, is_final, is_bystander(number)
            )
            record.attempts.append(attempt)
            if isinstance(answer, Answer):
                return answer
            record.retried[what] += 1
            if isinstance(answer, Wrong):
                record.wrong.append(what)
            assert time.monotonic() < deadline, f"{request} was not answered: {record.retried}"
            if timeout_seconds is None:
                time.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, RETRY_SECONDS_MAX)
            timeout_seconds = None

    def attempts(self) -> list[Attempt]:
        return [attempt for record in self.records for attempt in record.attempts]

    def answered(self) -> int:
        return sum(len(record.answers) for record in self.records)

    def answers(self) -> list[tuple[Request, Answer]]:
        return [pair for record in self.records for pair in record.answers]


def faults_of(traffic: Traffic, disk: Disk | None, draw: random.Random) -> dict[str, Callable[[Scene], None]]:
    """Return what is done to the scene: in the long run more, and for longer."""

    def seconds(short: float, long: float) -> float:
        return draw.uniform(short, long) if LONG else short

    def lock_and_crowd(scene: Scene) -> None:
        world = traffic.world
        traffic.crowded = draw.choice([*world.plain, *world.limited, world.metered, *world.freezable])
        try:
            lock_row(scene, traffic.crowded, seconds(4, 13))
        finally:
            traffic.crowded = None

    faults: dict[str, Callable[[Scene], None]] = {
        "worker killed": kill_worker,
        "backend of a client killed": partial(kill_backend, application=CLIENT),
        "backend stopped": lambda scene: stop_backend(scene, seconds(1, 13)),
        ROW_LOCK: lock_and_crowd,
        "read-only": lambda scene: make_read_only(scene, seconds(1, 5)),
    }
    if LONG:
        faults |= {
            "postmaster killed": kill_postmaster,
            "backend of the service killed": kill_backend,
            WORKER_STOPS: lambda scene: stop_worker(scene, seconds(1, 8)),
            "postmaster stopped": lambda scene: stop_postmaster(scene, seconds(1, 13)),
            READ_ONLY_LONG: lambda scene: make_read_only(scene, READ_ONLY_SECONDS),
        }
    if disk is not None:
        faults[DISK_FULL] = lambda scene: fill_disk(scene, disk, seconds(1, 3))
    return faults


def is_bystander(number: int) -> bool:
    return number % BYSTANDERS_ONE_IN == 0


def make_world(scene: Scene) -> World:
    """Open the accounts, in two ledgers."""
    with scene.bank.connect() as app:
        world = World(
            plain=[open_account(app) for _ in range(6)],
            striped=[open_account(app, overdraft_limit_minor=None) for _ in range(2)],
            limited=[open_account(app) for _ in range(2)],
            metered=open_account(app),
            freezable=[open_account(app) for _ in range(2)],
            foreign=[open_account(app, currency=currency) for currency in ("USD", "USD", "JPY")],
            branch=[open_account(app, ledger_id=BRANCH) for _ in range(3)],
        )
        call(app, "set_limit", world.metered, "month", amount_max_minor=10**12, count_max=10**9)
        call(app, "stripe_account", world.striped[0], 4)
    return world


def open_worlds(traffic: Traffic, worlds: list[World]) -> None:
    """Give each world money, and one of each that requests name."""
    with closing(OverHttp(traffic.scene.http, traffic.keys)) as http:
        for world in worlds:
            opening = Client(world, f"{SEED}-opening")
            for account_id in [*world.plain, world.metered, *world.limited, *world.foreign, *world.branch]:
                ledger_id = BRANCH if account_id in world.branch else MAIN
                request = opening.credit_of(f"opening-{account_id}", account_id, OPENING_MINOR, ledger_id)
                traffic.records[0].answers.append((request, http.send(request)))
            # One of each that others name: few are drawn in a short run, and perhaps all of them by the other world.
            account_id = world.plain[0]
            for request in (
                opening.open(f"opening-account-{account_id}"),
                opening.authorise(f"opening-hold-{account_id}", account_id),
                opening.credit_of(f"opening-reversible-{account_id}", account_id, 1),
            ):
                answer = http.send(request)
                traffic.records[0].answers.append((request, answer))
                world.learn(request, answer)


@pytest.mark.timeout(300 + 3 * SECONDS)
def test_what_was_acknowledged_of_every_kind_is_there_exactly_once_after_faults_of_every_kind(
    scene: Scene, disk: Disk | None
) -> None:
    with scene.bank.connect("bank_owner") as owner:
        assert call(owner, "create_ledger", "Branch")["ledger_id"] == BRANCH
    worlds, began_at = [make_world(scene), make_world(scene)], datetime.now(UTC)
    traffic = Traffic(scene, *worlds)
    open_worlds(traffic, worlds)

    windows = list[Window]()
    draw = random.Random(SEED)  # noqa: S311 - of a test
    faults = faults_of(traffic, disk, draw)
    end = time.monotonic() + SECONDS
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients: list[Future[None]] = []
        try:
            clients = [threads.submit(traffic.run, number) for number in range(CLIENTS)]
            for name in in_turn(list(faults), draw):
                await_progress(traffic, clients)
                if time.monotonic() > end and len({window.name for window in windows}) == len(faults):
                    break
                struck_at = time.monotonic()
                faults[name](scene)
                windows.append(Window(name, struck_at, time.monotonic()))
        finally:
            traffic.stop.set()
        for client in clients:
            client.result()
    found = effects(windows, traffic.attempts(), CLIENTS)
    report(traffic)
    print(table(found))
    counts = sum((Counter(record.wrong) for record in traffic.records), Counter[str]())
    wrong = [f"{what}, {count} times" for what, count in counts.most_common()]

    scene.http.await_ready()
    answers = traffic.answers()
    assert scene.deadlocks().total() <= len(answers) // DEADLOCKS_ONE_IN
    with scene.bank.connect("bank_owner") as owner:
        rows = assert_keys_have_what_was_acknowledged(owner, answers)
        assert_balances_are_the_sums(owner, rows)
        assert_holds_are_what_was_acknowledged(owner, answers, rows)
        assert_reversals_are_within_their_originals(rows)
        for world in worlds:
            assert_the_metered_account_counted_once(owner, world.metered, rows, began_at)
        assert_changes_are_recorded(owner, answers)
        assert violations(owner) == []
    assert_replays_are_the_first_outcome(traffic, answers)
    assert_it_goes_on(traffic)
    deadline_seconds = scene.http.settings.request_timeout_seconds
    assert wrong + overlong(windows, traffic.attempts(), deadline_seconds) + stopped_by_a_lock(found) == []
    assert "internal_error" not in scene.http.log()


def in_turn(names: list[str], draw: random.Random) -> Iterator[str]:
    """All of them, in another order each time."""
    while True:
        yield from draw.sample(names, len(names))
        names = [name for name in names if name not in ONCE]


def await_progress(traffic: Traffic, clients: list[Future[None]]) -> None:
    """Return when every client has got further: all has recovered from the last fault by itself."""
    goal = traffic.answered() + random.randint(*STEPS)  # noqa: S311 - of a test
    goals = [len(record.answers) + 1 for record in traffic.records]
    wait_for(
        lambda: (
            (
                traffic.answered() >= goal
                and all(len(record.answers) >= own for record, own in zip(traffic.records, goals, strict=True))
            )
            or any(client.done() for client in clients)
        ),
        "requests are answered again",
        RECOVERY_SECONDS_MAX,
    )
    for client in clients:
        if client.done():
            client.result()


def report(traffic: Traffic) -> None:
    answers = traffic.answers()
    keyed = [row for _, answer in answers for row in answer.rows.values()]
    print(f"\nseed {SEED}, {CLIENTS} clients, {SECONDS:g} s")
    print(f"attempts: {dict(Counter(attempt.way for attempt in traffic.attempts()))}")
    print(f"retried: {dict(sum((record.retried for record in traffic.records), Counter()).most_common())}")
    print(f"answered: {len(answers)}: {dict(Counter(request.kind for request, _ in answers).most_common())}")
    statuses = Counter(row["transaction_status"] for row in keyed)
    print(f"transactions acknowledged: {len(keyed)}: {dict(statuses)}")
    codes = Counter(answer.code for _, answer in answers if answer.code is not None)
    print(f"rejected or refused: {dict(codes.most_common())}")
    print(f"deadlocks: {dict(traffic.scene.deadlocks())}")


def assert_keys_have_what_was_acknowledged(
    owner: Connection, answers: list[tuple[Request, Answer]]
) -> dict[tuple[int, str], Row]:
    """Return every transaction with a key, by ledger and key."""
    acknowledged = {
        (request.ledger_id, key): request.facts[key] | row
        for request, answer in answers
        for key, row in answer.rows.items()
    }
    query = """
        select asked.ledger_id as asked_of, asked.key, found.*
        from unnest(%s::bigint[], %s::text[]) as asked (ledger_id, key)
        cross join lateral bank.find_transaction(asked.key, asked.ledger_id) as found
    """
    ledgers, keys = zip(*acknowledged, strict=True)
    found = {(row["asked_of"], row["key"]): seen(row) for row in owner.execute(query, [list(ledgers), list(keys)])}
    for key, facts in acknowledged.items():
        assert {name: found[key][name] for name in facts} == facts, f"{facts}: {found[key]}"
    recorded = owner.execute("select ledger_id, idempotency_key, transaction_id from bank.transaction").fetchall()
    with_key = [(row["ledger_id"], row["idempotency_key"]) for row in recorded if row["idempotency_key"] is not None]
    assert len(with_key) == len(set(with_key))
    assert set(with_key) >= set(acknowledged)
    more = set(with_key) - set(acknowledged)
    assert more <= {(MAIN, key) for request, answer in answers for key in stopped(request, answer)}
    for ledger_id, key in more:
        assert call(owner, "find_transaction", key, ledger_id)["transaction_status"] == "failure"
    # Only the other side of a transfer between ledgers has no key of its own.
    others = {(row["ledger_id"], row["transaction_id"]) for row in recorded if row["idempotency_key"] is None}
    assert others == {
        (row["counterpart_ledger_id"], row["original_transaction_id"])
        for row in found.values()
        if row["transaction_type"] == "cross_ledger" and row["transaction_status"] == "success"
    }
    return found


def stopped(request: Request, answer: Answer) -> set[str]:
    """Return the keys of the groups of a batch of which nothing was posted.

    Sent again, such a group may be stopped by an earlier item than the first time, which then has its failure recorded.
    """
    if request.kind != "batch":
        return set()
    keys = list(request.facts)
    failed = {key for key in keys if answer.rows.get(key, {}).get("transaction_status") != "success"}
    if request.body["atomic"]:
        return set(keys) if failed else set()
    groups = {key: item.get("group") for key, item in zip(keys, request.body["transfers"], strict=True)}
    failed_groups = {groups[key] for key in failed} - {None}
    return {key for key in keys if groups[key] in failed_groups}


def movements(row: Row) -> list[tuple[int, int]]:
    """Return the accounts that a success changed, and by how much."""
    if row["transaction_type"] in ("hold", "void"):
        return []
    if row["legs"] is not None:
        return [(leg["account_id"], leg["amount_minor"]) for leg in row["legs"]]
    return [(row["debit_account_id"], -row["amount_minor"]), (row["credit_account_id"], row["amount_minor"])]


def successes(rows: dict[tuple[int, str], Row], *types: str) -> list[Row]:
    return [
        row
        for row in rows.values()
        if row["transaction_status"] == "success" and (not types or row["transaction_type"] in types)
    ]


def assert_balances_are_the_sums(owner: Connection, rows: dict[tuple[int, str], Row]) -> None:
    """Of every account in both ledgers, the ledgers' own too."""
    sums: defaultdict[tuple[int, int], int] = defaultdict(int)
    for row in successes(rows):
        sides = [row]
        if row["transaction_type"] == "cross_ledger":
            theirs = call(owner, "get_transaction", row["original_transaction_id"], row["counterpart_ledger_id"])
            assert theirs["original_transaction_id"] == row["transaction_id"]
            assert (theirs["amount_minor"], theirs["transaction_status"]) == (row["amount_minor"], "success")
            sides.append(theirs)
        for side in sides:
            for account_id, change_minor in movements(side):
                sums[side["ledger_id"], account_id] += change_minor
    query = "select ledger_id, account_id, balance_minor from bank.account_balance"
    balances = {(row["ledger_id"], row["account_id"]): row["balance_minor"] for row in owner.execute(query)}
    assert balances == {account: sums[account] for account in balances} | dict(sums)


def assert_holds_are_what_was_acknowledged(
    owner: Connection, answers: list[tuple[Request, Answer]], rows: dict[tuple[int, str], Row]
) -> None:
    captured: defaultdict[int, int] = defaultdict(int)
    for row in successes(rows, "capture"):
        captured[row["original_transaction_id"]] += row["amount_minor"]
    voided = Counter(row["original_transaction_id"] for row in successes(rows, "void"))
    ended = Counter(
        row["original_transaction_id"]
        for request, answer in answers
        for row in answer.rows.values()
        if request.kind == "capture" and row["transaction_status"] == "success" and request.body["final"]
        for row in [rows[request.ledger_id, request.key]]
    )
    # In one statement, for which no more and no less has expired.
    query = """
        select h.*, b.held_minor as held_of_account_minor
        from bank.hold_detail as h
        inner join bank.account_balance as b on h.ledger_id = b.ledger_id and h.account_id = b.account_id
    """
    holds = {row["hold_id"]: row for row in owner.execute(query)}
    asked = {
        rows[request.ledger_id, request.key]["transaction_id"]: request.body
        for request, answer in answers
        if request.kind == "authorise" and answer.code is None
    }
    assert set(holds) == set(asked)
    held = Counter[int]()
    for hold_id, hold in holds.items():
        assert hold["captured_minor"] == captured[hold_id] <= hold["amount_minor"] + hold["tolerance_minor"]
        assert hold["tolerance_minor"] == asked[hold_id]["tolerance_minor"]
        assert voided[hold_id] + ended[hold_id] <= 1
        if voided[hold_id]:
            expected = {"voided"}
        elif ended[hold_id] or captured[hold_id] >= hold["amount_minor"]:
            expected = {"captured"}
        else:
            expected = {"expired", "open"} if "expires_at" in asked[hold_id] else {"open"}
        assert hold["hold_status"] in expected, hold
        left_minor = hold["amount_minor"] - captured[hold_id] if hold["hold_status"] == "open" else 0
        assert hold["held_minor"] == left_minor
        held[hold["account_id"]] += left_minor
    for hold in holds.values():
        assert hold["held_of_account_minor"] == held[hold["account_id"]]


def assert_reversals_are_within_their_originals(rows: dict[tuple[int, str], Row]) -> None:
    by_id = {row["transaction_id"]: row for row in successes(rows)}
    reversals = defaultdict(list)
    for row in successes(rows, "reversal"):
        reversals[row["original_transaction_id"]].append(row["amount_minor"])
    for transaction_id, amounts_minor in reversals.items():
        original = by_id[transaction_id]
        if original["legs"] is None:
            assert sum(amounts_minor) <= original["amount_minor"]
        else:  # taken back as a whole
            assert len(amounts_minor) == 1


def assert_the_metered_account_counted_once(
    owner: Connection, account_id: int, rows: dict[tuple[int, str], Row], began_at: datetime
) -> None:
    """What was used of a limit that nobody changed is the sum of the debits, and of what captures took beyond holds."""
    if began_at.month != datetime.now(UTC).month:
        return  # it began anew in between
    debits = []
    for row in successes(rows):
        if row["transaction_type"] == "hold":
            changes = [(row["debit_account_id"], -row["amount_minor"])]
        else:
            changes = movements(row) if row["transaction_type"] not in ("capture", "reversal") else []
        net_minor = sum(change for changed_id, change in changes if changed_id == account_id)
        if row["ledger_id"] == MAIN and net_minor < 0:
            debits.append(-net_minor)
    query = """
        select coalesce(sum(captured_minor - amount_minor), 0)::bigint as minor from bank.hold_detail
        where account_id = %s and captured_minor > amount_minor
    """
    [beyond] = owner.execute(query, [account_id]).fetchall()
    [limit] = owner.execute("select * from bank.limits(%s)", [account_id]).fetchall()
    assert (limit["used_minor"], limit["used_count"]) == (sum(debits) + beyond["minor"], len(debits))


def given(values: Row) -> Row:
    return {name: value for name, value in values.items() if value is not None}


def assert_changes_are_recorded(owner: Connection, answers: list[tuple[Request, Answer]]) -> None:
    """The history of an account has no gap, each state follows from the one before, and the last is what is now."""
    query = "select * from bank.change_detail order by ledger_id, account_id, change_number"
    states: dict[tuple[int, str], Row] = {}
    past: defaultdict[tuple[int, str], list[Row]] = defaultdict(list)
    numbers = Counter[int]()
    for change in owner.execute(query):
        account_id, before, after = change["account_id"], given(change["before"]), given(change["after"])
        numbers[account_id] += 1
        assert change["change_number"] == numbers[account_id]
        what = change["change_type"]
        if "account_status" in after:
            what = "status"
            assert before == states.get((account_id, what), {"account_status": "open"})
        elif what.startswith("overdraft"):
            what = "overdraft"
            assert before == states.get((account_id, what), {"overdraft_limit_minor": 0})
        else:
            assert before == states.get((account_id, what), {})
        states[account_id, what] = after
        past[account_id, what].append(after)

    query = "select * from bank.account_detail where ledger_id = 1"
    accounts = {row["account_id"]: row for row in owner.execute(query)}
    query = "select * from bank.limit_detail"
    limits = {
        (row["account_id"], f"{row['limit_kind']}_limit"): given(
            {"amount_max_minor": row["amount_max_minor"], "count_max": row["count_max"]}
        )
        for row in owner.execute(query)
    }
    assert limits == {key: state for key, state in states.items() if key[1].endswith("_limit") and state}
    for (account_id, what), state in states.items():
        if what in ("status", "overdraft"):
            assert {name: accounts[account_id][name] for name in state} == state
    for request, answer in answers:
        if request.kind == "limit" and answer.code is None:
            kind = request.arguments["limit_kind"]
            wanted = given({name: request.body.get(name) for name in ("amount_max_minor", "count_max")})
            if kind != "overdraft" and wanted:  # it was so at some time
                assert wanted in past[request.arguments["account_id"], f"{kind}_limit"]
    assert {row["external_id"] for row in accounts.values() if row["external_id"]} == {
        request.key for request, _ in answers if request.kind == "open"
    }


def assert_replays_are_the_first_outcome(traffic: Traffic, answers: list[tuple[Request, Answer]]) -> None:
    """Whichever way the retry goes."""
    keyed = [(request, answer) for request, answer in answers if answer.rows]
    with closing(OverHttp(traffic.scene.http, traffic.keys)) as http, closing(OverSql(traffic.scene.bank)) as sql:
        for request, answer in keyed[:: 1 + len(keyed) // REPLAYS]:
            for way in (http, sql):
                again, loose = way.send(request), stopped(request, answer)
                assert {key: row["transaction_id"] for key, row in again.rows.items() if key not in loose} == {
                    key: row["transaction_id"] for key, row in answer.rows.items() if key not in loose
                }
                assert stopped(request, again) == loose


def assert_it_goes_on(traffic: Traffic) -> None:
    """Each kind can be posted afterwards, over HTTP and over SQL, and leaves the books in order."""
    fresh = Client(traffic.world, f"{SEED}-fresh")
    with closing(OverHttp(traffic.scene.http, traffic.keys)) as http, closing(OverSql(traffic.scene.bank)) as sql:
        for way in (http, sql):
            for kind in KINDS:
                request: Request | None = getattr(fresh, kind)(f"fresh-{type(way).__name__}-{kind}")
                assert request is not None
                way.send(request)
            account_id = traffic.world.plain[0]
            credit = fresh.credit_of(f"fresh-{type(way).__name__}", account_id, 1)
            assert way.send(credit).code is None
    with traffic.scene.bank.connect() as app:
        assert violations(app) == []
