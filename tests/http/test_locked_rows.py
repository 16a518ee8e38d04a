"""Somebody's own transaction keeps rows locked: whoever names them waits, and nobody else does."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from service.postings import Item, Postings
from tests.conftest import Bank, Connection
from tests.helpers import open_account as open_for_sql
from tests.http.conftest import balance_of, new_key, open_account, post, problem_of, transfer
from tests.http.test_coalescer import with_coalescer
from tests.http.test_metrics import figure
from tests.http_server import HttpServer, create_key, violations, wait_for

HOLDS = 40  # many times the connections of a worker
TIMEOUT_SECONDS = 20


@contextmanager
def serving(bank: Bank, request_timeout_seconds: int = TIMEOUT_SECONDS, **settings: int) -> Iterator[HttpServer]:
    http = HttpServer(bank.app_url, workers=1, request_timeout_seconds=request_timeout_seconds, **settings)
    try:
        http.start()
        yield http
        assert "Traceback" not in http.log(), http.log()
    finally:
        http.stop()


@pytest.fixture(scope="module")
def http(shared_bank: Bank) -> Iterator[HttpServer]:
    """One worker, so that all of its connections are the same ones."""
    with serving(shared_bank) as http:
        yield http


@pytest.fixture(scope="module")
def client(shared_bank: Bank, http: HttpServer) -> Iterator[httpx.Client]:
    key, _ = create_key(shared_bank)
    with http.client(key) as client:
        yield client


@pytest.fixture
def locker(shared_bank: Bank) -> Iterator[Connection]:
    """Somebody's own transaction."""
    with shared_bank.connect("bank_owner", autocommit=False) as locker:
        yield locker
        locker.rollback()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(HOLDS + 10) as threads:
        yield threads


def lock(locker: Connection, *account_ids: int) -> None:
    locker.execute("select from bank.account where account_id = any(%s) for update", [list(account_ids)])


def waiting(http: HttpServer) -> float:
    return figure(http, "pgteller_waiting_for_rows")


def await_waiting(http: HttpServer, requests: int) -> None:
    wait_for(lambda: waiting(http) == requests, f"{requests} requests wait for the row")


def assert_others_are_served(http: HttpServer, client: httpx.Client) -> None:
    """Everything that names no locked row is answered while it is locked, by writes and reads of every kind."""
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    for _ in range(5):
        assert transfer(client, ada, bob, 1).status_code == 201
    hold = post(client, "/v1/holds", {"account_id": ada, "amount_minor": 5})
    assert hold.status_code == 201
    assert post(client, f"/v1/holds/{hold.json()['transaction_id']}/capture", {}).status_code == 201
    assert client.get(f"/v1/accounts/{ada}/entries").status_code == 200
    assert balance_of(client, ada) == 90
    assert client.get("/health/ready").status_code == 200


def test_transfers_and_holds_wait_for_a_locked_account_without_holding_anybody_up(
    http: HttpServer, client: httpx.Client, threads: ThreadPoolExecutor, locker: Connection
) -> None:
    locked, other = open_account(client, balance_minor=1000), open_account(client, balance_minor=10)
    lock(locker, locked)
    answers = [threads.submit(transfer, client, locked, other, 1) for _ in range(4)]
    answers += [threads.submit(transfer, client, other, locked, 1) for _ in range(4)]
    body = {"account_id": locked, "amount_minor": 1}
    answers += [threads.submit(post, client, "/v1/holds", body) for _ in range(HOLDS)]
    await_waiting(http, 8 + HOLDS)
    assert_others_are_served(http, client)
    assert balance_of(client, locked) == 1000
    assert transfer(client, other, open_account(client), 1).status_code == 201
    assert figure(http, "pgteller_locked_rows") == 1
    assert not any(answer.done() for answer in answers)
    locker.rollback()
    assert [answer.result().status_code for answer in answers] == [201] * len(answers)
    assert balance_of(client, locked) == 1000
    wait_for(lambda: figure(http, "pgteller_locked_rows") == 0, "nothing counts as locked any more")


def test_whoever_waits_too_long_is_told_what_is_locked_and_nothing_is_posted(shared_bank: Bank) -> None:
    key, _ = create_key(shared_bank)
    with (
        serving(shared_bank, request_timeout_seconds=1) as http,
        http.client(key) as client,
        shared_bank.connect("bank_owner", autocommit=False) as locker,
    ):
        locked, other = open_account(client, balance_minor=10), open_account(client)
        lock(locker, locked)
        headers = [new_key() for _ in range(3)]
        requests: list[Callable[[], httpx.Response]] = [
            lambda: transfer(client, locked, other, 1, **headers[0]),
            lambda: post(client, "/v1/holds", {"account_id": locked, "amount_minor": 1}, **headers[1]),
            lambda: post(client, "/v1/sweeps", {"debit_account_id": locked, "credit_account_id": other}, **headers[2]),
        ]
        for request in requests:
            began = time.monotonic()
            answer = request()
            assert time.monotonic() - began < 5
            problem = problem_of(answer, 503, "timed_out")
            assert problem["detail"] == f"Account {locked} is locked by another transaction. Nothing was posted."
            assert answer.headers["Retry-After"] == "1"
        locker.rollback()
        wait_for(lambda: figure(http, "pgteller_locked_rows") == 0, "nothing counts as locked any more")
        assert [request().status_code for request in requests] == [201] * 3
        with shared_bank.connect("bank_owner") as owner:
            assert violations(owner) == []


def test_captures_and_reversals_wait_for_the_accounts_that_they_do_not_name(
    http: HttpServer, client: httpx.Client, threads: ThreadPoolExecutor, locker: Connection
) -> None:
    locked, other = open_account(client, balance_minor=100), open_account(client)
    held = post(client, "/v1/holds", {"account_id": locked, "amount_minor": 5}).json()["transaction_id"]
    moved = transfer(client, locked, other, 7).json()["transaction_id"]
    lock(locker, locked)
    answers = [
        threads.submit(post, client, f"/v1/holds/{held}/capture", {"amount_minor": 2}),
        threads.submit(post, client, f"/v1/holds/{held}/void", {}),
        threads.submit(post, client, f"/v1/transactions/{moved}/reverse", {}),
    ]
    await_waiting(http, 3)
    assert_others_are_served(http, client)
    locker.rollback()
    assert {answer.result().status_code for answer in answers} <= {201, 409}
    assert answers[2].result().status_code == 201


def test_credits_wait_for_settlement_accounts_and_transfers_do_not(
    http: HttpServer, client: httpx.Client, threads: ThreadPoolExecutor, locker: Connection
) -> None:
    """All sixteen stripes are locked; where one is free, the posting takes that one."""
    ada, bob = open_account(client, "CHF", balance_minor=100), open_account(client, "CHF")
    settlement = "select account_id from bank.account where settlement and currency = 'CHF' and ledger_id = 1"
    locker.execute(f"select bank._lock_rows(({settlement}), 1)")
    answers = [threads.submit(post, client, f"/v1/accounts/{ada}/credit", {"amount_minor": n}) for n in (1, 2, 3)]
    answers += [threads.submit(post, client, f"/v1/accounts/{ada}/debit", {"amount_minor": n}) for n in (1, 2, 3)]
    await_waiting(http, 6)
    assert transfer(client, ada, bob, 1).status_code == 201
    assert not any(answer.done() for answer in answers)
    locker.rollback()
    assert [answer.result().status_code for answer in answers] == [201] * 6
    assert balance_of(client, ada) == 99


def test_a_key_that_somebody_uses_just_now_is_waited_for_by_its_retry_alone(
    http: HttpServer, client: httpx.Client, threads: ThreadPoolExecutor, locker: Connection, database: Connection
) -> None:
    """The first use is on other accounts: no row that the retry names is locked."""
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    eve, zoe = open_account(client, balance_minor=100), open_account(client)
    key = new_key()
    locker.execute("select bank.transfer(%s, %s, 1, idempotency_key => %s)", [ada, bob, key["Idempotency-Key"]])
    answer: Future[httpx.Response] = threads.submit(transfer, client, eve, zoe, 1, **key)
    query = "select from pg_stat_activity where application_name = 'pgteller' and %s = any(pg_blocking_pids(pid))"
    blocked = [locker.info.backend_pid]
    wait_for(lambda: bool(database.execute(query, blocked).fetchall()), "the retry waits in the database")
    assert_others_are_served(http, client)
    assert not answer.done()
    locker.commit()
    problem_of(answer.result(), 422, "idempotency_key_reused")


def test_a_row_that_goes_from_hand_to_hand_is_queued_for_in_the_database(
    shared_bank: Bank,
    http: HttpServer,
    client: httpx.Client,
    threads: ThreadPoolExecutor,
    locker: Connection,
) -> None:
    """Else those who ask again and again would wait for ever for a row that is merely in demand."""

    def calls() -> float:
        return figure(http, "pgteller_coalescer_flush_items_count", function="post")

    locked, other = open_account(client, balance_minor=100), open_account(client)
    lock(locker, locked)
    answer = threads.submit(transfer, client, locked, other, 1)
    await_waiting(http, 1)
    calls_before = calls()
    with shared_bank.connect("bank_owner", autocommit=False) as next_one:
        taking = threads.submit(lock, next_one, locked)
        query = "select where pg_blocking_pids(%s) <> '{}'"
        pid = [next_one.info.backend_pid]
        wait_for(lambda: bool(locker.execute(query, pid).fetchall()), "another waits for the row")
        locker.rollback()
        taking.result()
        wait_for(lambda: calls() > calls_before, "the transfer is sent again")
        assert not answer.done()
        next_one.rollback()
    assert answer.result().status_code == 201


def test_a_row_that_is_hardly_ever_free_is_had_all_the_same(
    shared_bank: Bank, client: httpx.Client, threads: ThreadPoolExecutor
) -> None:
    """Each lock is held for longer than a call waits before it gives its connection back."""
    locked, other = open_account(client, balance_minor=100), open_account(client)
    enough = threading.Event()

    def lock_again_and_again() -> None:
        with shared_bank.connect("bank_owner", autocommit=False) as locker:
            while not enough.is_set():
                lock(locker, locked)
                enough.wait(0.15)
                locker.rollback()

    lockers = [threads.submit(lock_again_and_again) for _ in range(2)]
    try:
        body = {"account_id": locked, "amount_minor": 1}
        answers = [threads.submit(transfer, client, locked, other, 1) for _ in range(5)]
        answers += [threads.submit(post, client, "/v1/holds", body) for _ in range(3)]
        assert [answer.result().status_code for answer in answers] == [201] * 8
    finally:
        enough.set()
    for locker in lockers:
        locker.result()


@pytest.mark.parametrize("at", [0, 5, 9])
def test_a_key_in_use_does_not_hold_up_those_that_are_sent_with_it(
    shared_bank: Bank, locker: Connection, at: int
) -> None:
    """They come at one moment, and so in one call."""
    key = f"in use {at}"
    with shared_bank.connect() as app:
        ada, bob = open_for_sql(app, 100), open_for_sql(app)
        eves = [open_for_sql(app, 100) for _ in range(10)]
    locker.execute("select bank.transfer(%s, %s, 1, idempotency_key => %s)", [ada, bob, key])

    async def steps(postings: Postings) -> None:
        items = [
            Item("transfer", eve, eves[n - 1], 1, key if n == at else f"unrelated {at} {n}", None, None, "{}")
            for n, eve in enumerate(eves)
        ]
        tasks = [asyncio.create_task(postings.submit(1, item)) for item in items]
        waiting = set(tasks)
        while len(waiting) > 1:
            more, waiting = await asyncio.wait(waiting, timeout=TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            assert more, "the others wait with it"
        assert waiting == {tasks[at]}
        locker.rollback()
        assert (await tasks[at])["transaction_status"] == "success"

    with_coalescer(shared_bank, steps, lock_timeout_ms=50, request_timeout_seconds=2 * TIMEOUT_SECONDS)


def test_openings_that_wait_for_an_external_id_do_not_hold_up_other_holds(
    client: httpx.Client, threads: ThreadPoolExecutor, locker: Connection
) -> None:
    ada = open_account(client, balance_minor=1000)
    locker.execute("select bank.open_account('Eve', 'EUR', external_id => 'taken soon')")
    body = {"holder_name": "Eve", "currency": "EUR", "external_id": "taken soon"}
    openings = [threads.submit(post, client, "/v1/accounts", body) for _ in range(HOLDS)]
    for _ in range(10):
        assert post(client, "/v1/holds", {"account_id": ada, "amount_minor": 1}).status_code == 201
    assert not any(opening.done() for opening in openings)
    locker.rollback()
    assert sorted(opening.result().status_code for opening in openings) == [201] + [409] * (HOLDS - 1)
