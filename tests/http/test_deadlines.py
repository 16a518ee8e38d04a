"""What a request is told when its deadline passes, and that it is true; who is delayed by a slow call, and who not."""

import asyncio
import select
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from service import deadlines
from service.errors import Problem, left_nothing_behind
from service.postings import Item, Postings
from tests.conftest import Bank, Connection
from tests.helpers import Row, call, open_account
from tests.http.conftest import new_key
from tests.http.conftest import open_account as open_over_http
from tests.http.test_coalescer import transfer, waiting_for, with_coalescer
from tests.http_server import HttpServer, create_key, wait_for


def within(postings: Postings, seconds: float, item: Item) -> "asyncio.Task[Row]":
    """Submit with a deadline of its own."""

    async def run() -> Row:
        deadlines.begin(seconds)
        return await postings.submit(1, item)

    return asyncio.create_task(run())


async def code_of(task: "asyncio.Task[Row]") -> str:
    [outcome] = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(outcome, Problem), outcome
    return str(outcome.body["code"])


def keys(owner: Connection) -> set[str | None]:
    return {row["idempotency_key"] for row in owner.execute("select idempotency_key from bank.transaction")}


def lock(holder: Connection, account_id: int) -> None:
    holder.execute("select from bank.account where account_id = %s for update", [account_id])


@pytest.mark.parametrize("then", ["allow_connections false", "set default_transaction_read_only = on"])
def test_what_was_sent_once_stays_unknown_whatever_the_next_attempt_meets(
    bank: Bank, app: Connection, owner: Connection, then: str
) -> None:
    ada, bob = open_account(app, 100), open_account(app)

    async def steps(postings: Postings) -> None:
        with (
            bank.connect("bank_owner", autocommit=False) as holder,
            psycopg.connect(bank.server.conninfo("postgres"), autocommit=True) as admin,
        ):
            lock(holder, ada)
            task = within(postings, 5, transfer(ada, bob, 1, "k"))
            await waiting_for(owner, holder)
            admin.execute(f"alter database {bank.dbname} {then}".encode())
            ours = "application_name = 'pgteller' and datname = %s"
            admin.execute(
                f"select pg_terminate_backend(pid) from pg_stat_activity where {ours}".encode(), [bank.dbname]
            )
            code = await code_of(task)
            admin.execute(f"alter database {bank.dbname} allow_connections true".encode())
        assert code == "outcome_unknown"

    with_coalescer(bank, steps)


def test_in_flight_beyond_its_deadline_is_unknown_and_the_rest_of_the_call_goes_on(
    bank: Bank, app: Connection, owner: Connection
) -> None:
    ada, bob = open_account(app, 100), open_account(app)

    async def steps(postings: Postings) -> None:
        with bank.connect("bank_owner", autocommit=False) as holder:
            lock(holder, ada)
            first, second = (within(postings, seconds, transfer(ada, bob, 1, f"k{seconds}")) for seconds in (1, 20))
            assert await code_of(first) == "outcome_unknown"
            assert not second.done()
            holder.rollback()
        assert (await second)["transaction_status"] == "success"

    with_coalescer(bank, steps)
    assert {"k1", "k20"} <= keys(owner)


def test_what_expires_before_a_connection_comes_is_not_sent_with_the_rest_whose_order_is_kept(
    bank: Bank, app: Connection, owner: Connection
) -> None:
    ada, bob = open_account(app, 100), open_account(app)

    async def steps(postings: Postings) -> None:
        async with postings.pool.connection():
            tasks = [
                within(postings, seconds, transfer(ada, bob, n, f"k{n}")) for n, seconds in enumerate([1, 20, 20, 20])
            ]
            assert await code_of(tasks[0]) == "database_unavailable"
            tasks.append(within(postings, 20, transfer(ada, bob, 4, "k4")))
            await asyncio.sleep(0)
            assert not any(task.done() for task in tasks[1:])
        await asyncio.gather(*tasks[1:])

    with_coalescer(bank, steps, pool_connections_max=1)
    query = "select amount_minor from bank.transaction where idempotency_key like 'k%' order by transaction_id"
    assert [row["amount_minor"] for row in owner.execute(query)] == [1, 2, 3, 4]


def test_what_expires_in_the_queue_is_never_sent_and_leaves_room(
    bank: Bank, app: Connection, owner: Connection
) -> None:
    ada, bob = open_account(app, 100), open_account(app)

    async def steps(postings: Postings) -> None:
        with bank.connect("bank_owner", autocommit=False) as holder:
            lock(holder, ada)
            first = within(postings, 20, transfer(ada, bob, 1, "first"))
            await waiting_for(owner, holder)
            for n in range(5):  # of a queue with three places
                assert await code_of(within(postings, 0.3, transfer(ada, bob, 1, f"late{n}"))) == "database_unavailable"
            last = within(postings, 20, transfer(ada, bob, 1, "last"))
            await asyncio.sleep(0)
            holder.rollback()
        await asyncio.gather(first, last)

    with_coalescer(bank, steps, coalescer_queue_max=3)
    assert keys(owner) - {None} == {"first", "last"}


def test_a_slow_call_gives_up_its_place_again_and_again(bank: Bank, app: Connection, owner: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    eve, zoe = open_account(app, 100), open_account(app)

    async def steps(postings: Postings) -> None:
        postings.slow_seconds = 0.1  # type: ignore[misc]  # as it is in the service
        for n in range(5):
            with bank.connect("bank_owner", autocommit=False) as holder:
                lock(holder, ada)
                slow = within(postings, 20, transfer(ada, bob, 1, f"slow{n}"))
                await waiting_for(owner, holder)
                assert (await within(postings, 20, transfer(eve, zoe, 1, f"quick{n}")))[
                    "transaction_status"
                ] == "success"
                assert not slow.done()
                holder.rollback()
            await slow

    with_coalescer(bank, steps)


def test_a_dry_run_that_waits_for_a_key_is_taken_back(bank: Bank, app: Connection, owner: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    eve, zoe = open_account(app, 100), open_account(app)

    async def steps(postings: Postings) -> None:
        with bank.connect("bank_owner", autocommit=False) as holder:
            holder.execute("select bank.transfer(%s, %s, 1, idempotency_key => 'k')", [ada, bob])
            task = asyncio.create_task(postings.dry_run(1, transfer(eve, zoe, 1, "k")))
            async with asyncio.timeout(20):
                while not postings.pool.contended:  # noqa: ASYNC110 - until it has met the key
                    await asyncio.sleep(0.01)
            holder.rollback()
        [row] = await task
        assert row["transaction_id"] is None

    with_coalescer(bank, steps, lock_timeout_ms=50)
    assert call(app, "balance", zoe)["balance_minor"] == 0
    assert "k" not in keys(owner)


def test_whoever_waits_for_a_key_to_the_end_is_told_so_and_not_that_the_outcome_is_unknown(
    bank: Bank, app: Connection, owner: Connection
) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    pairs = [(open_account(app, 100), open_account(app)) for _ in range(12)]

    async def steps(postings: Postings) -> None:
        with bank.connect("bank_owner", autocommit=False) as holder:
            holder.execute("select bank.transfer(%s, %s, 1, idempotency_key => 'k')", [ada, bob])
            tasks = [within(postings, 2, transfer(*pair, 1, "k")) for pair in pairs]
            assert {await code_of(task) for task in tasks} == {"timed_out"}
        assert not postings.pool.contended

    with_coalescer(bank, steps, lock_timeout_ms=50)


def test_a_read_that_waits_for_a_table_is_never_of_unknown_outcome(bank: Bank) -> None:
    key, _ = create_key(bank)
    http = HttpServer(bank.app_url, workers=1, request_timeout_seconds=1, key_cache_seconds=60)
    try:
        http.start()
        with http.client(key) as client, bank.connect("bank_owner", autocommit=False) as locker:
            account_id = open_over_http(client)
            locker.execute("lock table bank.entry in access exclusive mode")
            codes = {client.get(f"/v1/accounts/{account_id}/entries").json()["code"] for _ in range(6)}
            assert codes <= {"timed_out", "database_unavailable"}
    finally:
        http.stop()


def test_the_time_of_a_body_is_the_clients_own(bank: Bank) -> None:
    key, _ = create_key(bank)
    http = HttpServer(bank.app_url, workers=1, request_timeout_seconds=1)
    try:
        http.start()
        with http.client(key) as client, http.connect() as connection, connection.makefile("rb") as file:
            account_id = open_over_http(client)
            body = b'{"amount_minor": 1}'
            head = f"POST /v1/accounts/{account_id}/credit HTTP/1.1\r\nHost: bank\r\nAuthorization: Bearer {key}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            head += f"Idempotency-Key: {new_key()['Idempotency-Key']}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + body[:5])
            with pytest.raises(TimeoutError):  # nothing comes while the body is on its way, beyond the deadline too
                connection.settimeout(1.5)
                file.peek(1)
            connection.settimeout(20)
            connection.sendall(body[5:])
            assert connection.recv(12) == b"HTTP/1.1 201"
    finally:
        http.stop()


def test_the_first_request_after_all_connections_were_ended_is_served(bank: Bank, owner: Connection) -> None:
    key, _ = create_key(bank)
    http = HttpServer(bank.app_url, workers=1, key_cache_seconds=60)
    ours = "from pg_stat_activity where application_name = 'pgteller' and datname = current_database()"
    try:
        http.start()
        with http.client(key) as client:
            ada, bob = open_over_http(client, balance_minor=100), open_over_http(client)
            body = {"debit_account_id": ada, "credit_account_id": bob, "amount_minor": 1}

            def ask(n: int) -> httpx.Response:
                paths = [f"/v1/accounts/{ada}/entries", f"/v1/accounts/{ada}/balance"]
                body = {"account_id": ada, "amount_minor": 1}
                return client.get(paths[n % 3]) if n % 3 < 2 else client.post("/v1/holds", json=body, headers=new_key())

            def grown() -> bool:
                with ThreadPoolExecutor(30) as threads:
                    list(threads.map(ask, range(90)))
                return len(owner.execute(f"select {ours}".encode()).fetchall()) > 4

            wait_for(grown, "there are more connections than attempts")
            with psycopg.connect(bank.owner_url, autocommit=True) as admin:
                admin.execute(f"select pg_terminate_backend(pid, 5000) {ours}".encode())
            assert client.post("/v1/transfers", json=body, headers=new_key()).status_code == 201
    finally:
        http.stop()


@pytest.mark.parametrize(
    ("error", "nothing"),
    [(psycopg.OperationalError("x"), False), (psycopg.InterfaceError("x"), False), (psycopg.DataError("x"), True)],
)
def test_an_error_of_our_own_side_leaves_it_open_when_the_connection_may_have_broken(
    error: psycopg.Error, nothing: Any
) -> None:
    assert left_nothing_behind(error) is nothing


def test_the_last_words_before_a_session_ends_leave_it_open(bank: Bank) -> None:
    with bank.connect(autocommit=False) as connection:
        connection.execute("set idle_in_transaction_session_timeout = '10ms'")
        assert select.select([connection.pgconn.socket], [], [], 20)[0], "the server has said something"
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout) as raised:
            connection.execute("select")
    assert not left_nothing_behind(raised.value)
