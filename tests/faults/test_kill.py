"""kill -9 of PostgreSQL, of one of its backends and of a worker of the service, while clients post.

For a longer run by hand: PGTELLER_FAULT_SECONDS=600 .venv/bin/pytest tests/faults -s --timeout 900
"""

import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest

from tests.faults.scene import FAULTS, RECOVERY_SECONDS_MAX, RETRY_SECONDS, SECONDS, Scene
from tests.http_server import violations, wait_for

CLIENTS = 8
ACCOUNTS = 5  # few, so that postings wait for each other
STEPS = 200  # postings acknowledged before the next fault
REPLAYS = 200

ACKNOWLEDGED = {200, 201}
ALLOWED = ACKNOWLEDGED | {503}


@dataclass(frozen=True)
class Request:
    """A posting with a key of its own, which is sent until it is acknowledged."""

    key: str
    path: str
    body: dict[str, int]
    changes: dict[int, int]
    """What it does to the balance of each account."""


@dataclass
class Record:
    """What the clients saw. Appending is atomic, so that the threads share it."""

    acknowledged: list[tuple[Request, int]] = field(default_factory=list)
    """With the transaction_id of the answer."""
    seen: list[str] = field(default_factory=list)
    """Each answer's status, or the name of the exception instead of one."""
    unexpected: list[str] = field(default_factory=list)


@pytest.fixture
def account_ids(scene: Scene) -> list[int]:
    """Accounts without a limit."""
    with scene.bank.connect() as app:
        query = "select account_id from bank.open_account('Ada Lovelace', 'EUR', null)"
        return [app.execute(query).fetchall()[0]["account_id"] for _ in range(ACCOUNTS)]


def requests_of(client_number: int, account_ids: list[int]) -> Iterator[Request]:
    """Every client's own endless list: transfers in both directions, and credits."""
    for number in itertools.count():
        key = f"fault-{client_number}-{number}"
        amount_minor = 1 + number % 97
        one = account_ids[(client_number + number) % len(account_ids)]
        two = account_ids[(client_number + number // 2 + 1) % len(account_ids)]
        if number % 3 == 0 or one == two:
            yield Request(key, f"/v1/accounts/{one}/credit", {"amount_minor": amount_minor}, {one: amount_minor})
        else:
            body = {"debit_account_id": one, "credit_account_id": two, "amount_minor": amount_minor}
            yield Request(key, "/v1/transfers", body, {one: -amount_minor, two: amount_minor})


def run_client(requests: Iterator[Request], scene: Scene, record: Record, stop: threading.Event) -> None:
    """Post until told to stop, and then finish what was begun: a request is given up only when time is."""
    with scene.http.client(scene.key) as client:
        for request in requests:
            if stop.is_set() or record.unexpected:
                return
            deadline = time.monotonic() + RECOVERY_SECONDS_MAX
            while not sent(client, request, record):
                if record.unexpected:
                    return
                if time.monotonic() > deadline:
                    record.unexpected.append(f"{request.key} was not acknowledged: {record.seen[-20:]}")
                    return
                time.sleep(RETRY_SECONDS)


def sent(client: httpx.Client, request: Request, record: Record) -> bool:
    """Send it once; return whether it was acknowledged."""
    try:
        answer = client.post(request.path, json=request.body, headers={"Idempotency-Key": request.key})
    except httpx.TransportError as error:
        record.seen.append(type(error).__name__)
        return False
    record.seen.append(str(answer.status_code))
    if answer.status_code in ACKNOWLEDGED:
        record.acknowledged.append((request, answer.json()["transaction_id"]))
        return True
    if answer.status_code not in ALLOWED:
        record.unexpected.append(f"{request.key}: {answer.status_code} {answer.text}")
    return False


def test_what_was_acknowledged_is_there_exactly_once_after_kill_9_of_everything(
    scene: Scene, account_ids: list[int]
) -> None:
    record, stop, faults = Record(), threading.Event(), Counter[str]()
    end = time.monotonic() + SECONDS
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients: list[Future[None]] = []
        try:
            lists = [requests_of(number, account_ids) for number in range(CLIENTS)]
            clients = [threads.submit(run_client, requests, scene, record, stop) for requests in lists]
            for name, fault in itertools.cycle(FAULTS.items()):
                await_progress(record)
                if time.monotonic() > end and len(faults) == len(FAULTS):
                    break
                fault(scene)
                faults[name] += 1
        finally:
            stop.set()
        for client in clients:
            client.result()
    seen = Counter(record.seen)
    print(f"\n{dict(faults)}; {len(record.acknowledged)} postings acknowledged; answers: {dict(seen)}")

    assert record.unexpected == []
    scene.http.await_ready()
    assert "internal_error" not in scene.http.log()
    assert_ledger_is_what_was_acknowledged(scene, record)
    assert_replays_are_the_first_outcome(scene, record)


def await_progress(record: Record) -> None:
    """Return when the clients have got further: the service has recovered from the last fault by itself."""
    goal = len(record.acknowledged) + STEPS
    wait_for(
        lambda: len(record.acknowledged) >= goal or bool(record.unexpected),
        "postings are acknowledged again",
        RECOVERY_SECONDS_MAX,
    )
    assert record.unexpected == []


def assert_ledger_is_what_was_acknowledged(scene: Scene, record: Record) -> None:
    balances: defaultdict[int, int] = defaultdict(int)
    for request, _ in record.acknowledged:
        for account_id, change_minor in request.changes.items():
            balances[account_id] += change_minor
    with scene.bank.connect("bank_owner") as owner:
        query = "select idempotency_key, transaction_id, transaction_status::text as status from bank.transaction"
        posted = sorted(tuple(row.values()) for row in owner.execute(query).fetchall())
        assert posted == sorted((request.key, number, "success") for request, number in record.acknowledged)
        query = "select account_id, balance_minor from bank.account where not settlement and stripes = 0"
        assert {row["account_id"]: row["balance_minor"] for row in owner.execute(query)} == balances
        assert violations(owner) == []


def assert_replays_are_the_first_outcome(scene: Scene, record: Record) -> None:
    with scene.http.client(scene.key) as client:
        for request, transaction_id in record.acknowledged[:: 1 + len(record.acknowledged) // REPLAYS]:
            answer = client.post(request.path, json=request.body, headers={"Idempotency-Key": request.key})
            assert (answer.status_code, answer.json()["transaction_id"]) == (200, transaction_id)
