"""What waits together is one call, and each gets the answer that it would have got alone."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from service.accounts import Balances
from service.config import Settings
from service.db import Pool
from service.errors import Problem, from_database
from service.metrics import FLUSH_ITEMS
from service.postings import Item, Postings
from tests.conftest import Bank, Connection
from tests.helpers import call, call_all, open_account, violations

Outcome = dict[str, Any] | BaseException


def transfer(debit: int, credit: int, amount: int, key: str, metadata: str = "{}") -> Item:
    return Item("transfer", debit, credit, amount, key, None, None, metadata)


def with_coalescer(
    bank: Bank,
    steps: Callable[[Any], Awaitable[None]],
    kind: type[Postings] | type[Balances] = Postings,
    **settings: int,
) -> None:
    """Run the steps with a coalescer on the bank: one call in flight unless settings say otherwise."""

    async def run() -> None:
        alone = replace(Settings(), database_url=bank.app_url, coalescer_flushes_max=1, lock_timeout_ms=0)
        chosen = replace(alone, **settings)  # type: ignore[arg-type]
        async with Pool(chosen) as pool:
            coalescer = kind(pool, chosen)
            coalescer.slow_seconds = 60  # type: ignore[misc]  # a place stays taken however slow the machine is
            await steps(coalescer)
            await coalescer.drain()

    asyncio.run(run())


async def waiting_for(owner: Connection, holder: Connection) -> None:
    """Return when a call of the service waits for the holder's lock."""
    query = "select from pg_stat_activity where application_name = 'pgteller' and %s = any(pg_blocking_pids(pid))"
    async with asyncio.timeout(20):
        while not owner.execute(query, [holder.info.backend_pid]).fetchall():  # noqa: ASYNC110 - the database's state
            await asyncio.sleep(0.01)


def calls_of(owner: Connection) -> int:
    """Return how many database transactions made the recorded postings."""
    row = owner.execute("select count(distinct xmin::text) as n from bank.transaction").fetchone()
    assert row is not None
    return int(row["n"])


def test_what_waits_together_is_posted_by_one_call_and_told_apart(
    bank: Bank, app: Connection, owner: Connection
) -> None:
    ada, bob, eve = open_account(app, 100), open_account(app), open_account(app)
    first = call(app, "transfer", ada, bob, 1, "used")
    before = calls_of(owner)
    items = [
        transfer(ada, bob, 60, "a"),
        transfer(ada, bob, 60, "b"),
        Item("credit", None, ada, 50, "c", "Salary", "ext", '{"n": [1, "x,{}\\""]}'),
        transfer(ada, eve, 60, "d"),
        Item("debit", eve, None, 10, "e", None, None, "{}"),
        Item("debit", eve, bob, 10, "f", None, None, "{}"),
        transfer(ada, 999, 1, "g"),
        transfer(ada, bob, 60, "a"),
        transfer(ada, bob, 61, "a"),
        transfer(ada, bob, 1, "used"),
        transfer(ada, bob, 0, "h"),
        Item("credit", None, ada, 5, " ", None, None, "{}"),
    ]

    async def steps(postings: Postings) -> None:
        with bank.connect("bank_owner", autocommit=False) as holder:
            holder.execute("select from bank.account where account_id = %s for update", [ada])
            ahead = asyncio.create_task(postings.submit(1, transfer(ada, bob, 1, "ahead")))
            await waiting_for(owner, holder)
            tasks = [asyncio.create_task(postings.submit(1, item)) for item in items]
            await asyncio.sleep(0)
            holder.rollback()
        assert (await ahead)["transaction_status"] == "success"
        rows = await asyncio.gather(*tasks)
        codes = [row["failure_code"] for row in rows]
        assert codes == [
            None, "insufficient_funds", None, None, None, None, "account_not_found", None,
            "idempotency_key_reused", None, "invalid_amount", "invalid_argument",
        ]  # fmt: skip
        assert [row["replayed"] for row in rows] == [False] * 7 + [True, False, True, False, False]
        assert rows[7]["transaction_id"] == rows[0]["transaction_id"]
        assert rows[9]["transaction_id"] == first["transaction_id"]
        assert (rows[2]["description"], bytes(rows[2]["metadata"])) == ("Salary", b'{"n": [1, "x,{}\\""]}')

    with_coalescer(bank, steps)
    assert calls_of(owner) == before + 2
    assert [line["balance_after_minor"] for line in call_all(app, "statement", eve)] == [40, 50, 60]
    assert violations(app) == []


def test_ledgers_are_not_mixed_in_a_call(bank: Bank, app: Connection, owner: Connection) -> None:
    other = call(owner, "create_ledger", "Other")["ledger_id"]
    ours, theirs = open_account(app), open_account(app, ledger_id=other)

    async def steps(postings: Postings) -> None:
        tasks = [
            postings.submit(ledger_id, Item("credit", None, account_id, 1, f"k{n}", None, None, "{}"))
            for n in range(20)
            for ledger_id, account_id in ((1, ours), (other, theirs))
        ]
        rows = await asyncio.gather(*tasks)
        assert {(row["ledger_id"], row["credit_account_id"]) for row in rows} == {(1, ours), (other, theirs)}

    with_coalescer(bank, steps)
    assert call(app, "balance", ours)["balance_minor"] == 20
    assert violations(app) == []


def test_a_full_queue_refuses_and_loses_nothing_that_it_took(bank: Bank, app: Connection, owner: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)

    async def steps(postings: Postings) -> None:
        with bank.connect("bank_owner", autocommit=False) as holder:
            holder.execute("select from bank.account where account_id = %s for update", [ada])
            taken = [asyncio.create_task(postings.submit(1, transfer(ada, bob, 1, "a")))]
            await waiting_for(owner, holder)
            taken += [asyncio.create_task(postings.submit(1, transfer(ada, bob, 1, f"b{n}"))) for n in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(Problem) as refused:
                await postings.submit(1, transfer(ada, bob, 1, "c"))
            assert (refused.value.body["code"], refused.value.headers["Retry-After"]) == ("overloaded", "1")
            holder.rollback()
        assert {row["transaction_status"] for row in await asyncio.gather(*taken)} == {"success"}

    with_coalescer(bank, steps, coalescer_queue_max=3)
    assert call(app, "balance", bob)["balance_minor"] == 4


def test_a_client_that_goes_away_takes_nothing_back(bank: Bank, app: Connection, owner: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)

    async def steps(postings: Postings) -> None:
        with bank.connect("bank_owner", autocommit=False) as holder:
            holder.execute("select from bank.account where account_id = %s for update", [ada])
            tasks = [asyncio.create_task(postings.submit(1, transfer(ada, bob, 1, f"k{n}"))) for n in range(4)]
            await waiting_for(owner, holder)
            for task in tasks[:2]:
                task.cancel()
            await asyncio.sleep(0)
            holder.rollback()
        assert {row["transaction_status"] for row in await asyncio.gather(*tasks[2:])} == {"success"}

    with_coalescer(bank, steps)
    assert call(app, "balance", bob)["balance_minor"] == 4


def test_a_broken_call_fails_everybody_in_it_and_the_next_one_works(
    bank: Bank, app: Connection, owner: Connection
) -> None:
    ada, bob = open_account(app, 100), open_account(app)

    async def steps(postings: Postings) -> None:
        with bank.connect("bank_owner", autocommit=False) as holder:
            holder.execute("select from bank.account where account_id = %s for update", [ada])
            tasks = [asyncio.create_task(postings.submit(1, transfer(ada, bob, 1, f"k{n}"))) for n in range(3)]
            await waiting_for(owner, holder)
            # What a call cannot survive: its time is up, first alone, then for the two behind it.
            outcomes: list[Outcome] = list(await asyncio.gather(*tasks, return_exceptions=True))
            assert all(isinstance(outcome, psycopg.errors.QueryCanceled) for outcome in outcomes)
            holder.rollback()
        rows = await asyncio.gather(*(postings.submit(1, transfer(ada, bob, 1, f"k{n}")) for n in range(3)))
        assert [row["replayed"] for row in rows] == [False] * 3

    with_coalescer(bank, steps, request_timeout_seconds=1)
    assert call(app, "balance", bob)["balance_minor"] == 3


class CountedPostings(Postings):
    """Postings that remember how many items each call had."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sizes: list[int] = []

    def statement(self, ledger_id: int, items: list[Item]) -> tuple[str, dict[str, Any]]:
        self.sizes.append(len(items))
        return super().statement(ledger_id, items)


# As they would come if the service let them through: jsonb refuses the first, PostgreSQL's stack the second.
CULPRITS = ['{"a": 1e-20000}', '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"]


@pytest.mark.parametrize("culprit", CULPRITS, ids=["out of range", "too deep"])
@pytest.mark.parametrize("at", [0, 37, 63])
def test_one_bad_item_is_found_in_few_calls_and_alone_is_at_fault(
    bank: Bank, app: Connection, owner: Connection, culprit: str, at: int
) -> None:
    ada, bob = open_account(app, 100), open_account(app)

    async def steps(postings: CountedPostings) -> None:
        items = [transfer(ada, bob, 1, f"k{n}", culprit if n == at else "{}") for n in range(64)]
        outcomes: list[Outcome] = await asyncio.gather(
            *(postings.submit(1, item) for item in items), return_exceptions=True
        )
        failed = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)]
        assert failed == [at]
        assert from_database(outcomes[at]).body["code"] == "invalid_request"  # type: ignore[arg-type]
        # The whole, then two halves of whatever has the culprit: 64, 32, 16, 8, 4, 2, 1.
        assert len(postings.sizes) == 1 + 2 * 6
        assert sorted(postings.sizes, reverse=True) == [64, 32, 32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1]

    with_coalescer(bank, steps, CountedPostings)
    versions = [line["balance_after_minor"] for line in call_all(app, "statement", bob, None, 100)]
    assert versions == list(range(63, 0, -1)) or versions == list(range(1, 64))
    assert violations(app) == []


def test_switched_off_each_posting_is_a_call(bank: Bank, app: Connection, owner: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    before = calls_of(owner)

    async def steps(postings: Postings) -> None:
        await asyncio.gather(*(postings.submit(1, transfer(ada, bob, 1, f"k{n}")) for n in range(10)))

    with_coalescer(bank, steps, coalescer_flushes_max=0)
    assert calls_of(owner) == before + 10


def calls_of_balances() -> tuple[float, float]:
    """Return how many calls of bank.balances this process has made, and for how many enquiries."""
    samples = {sample.name: sample.value for sample in next(iter(FLUSH_ITEMS.labels("balances").collect())).samples}
    return samples["pgteller_coalescer_flush_items_count"], samples["pgteller_coalescer_flush_items_sum"]


def test_balances_that_are_asked_for_together_are_one_call_and_told_apart(
    bank: Bank, app: Connection, owner: Connection
) -> None:
    other = call(owner, "create_ledger", "Other")["ledger_id"]
    ada, bob, theirs = open_account(app, 100), open_account(app, 7), open_account(app, 3, ledger_id=other)
    before = calls_of_balances()

    async def steps(balances: Balances) -> None:
        with bank.connect("bank_owner", autocommit=False) as holder:
            holder.execute("lock table bank.account in access exclusive mode")
            ahead = asyncio.create_task(balances.submit(1, ada))
            await waiting_for(owner, holder)
            asked = [(1, ada), (1, bob), (1, 10**12), (1, ada), (1, theirs), (other, theirs), (1, 2**63 - 1)]
            tasks = [asyncio.create_task(balances.submit(ledger_id, account_id)) for ledger_id, account_id in asked]
            await asyncio.sleep(0)
            holder.rollback()
        rows = [row and row["balance_minor"] for row in await asyncio.gather(ahead, *tasks)]
        assert rows == [100, 100, 7, None, 100, None, 3, None]

    with_coalescer(bank, steps, Balances)
    calls, enquiries = (after - b for after, b in zip(calls_of_balances(), before, strict=True))
    assert (calls, enquiries) == (3, 8)  # one alone, one for each ledger


def test_a_balance_shows_what_was_acknowledged_before_it_was_asked_for(bank: Bank, app: Connection) -> None:
    account_ids = [open_account(app) for _ in range(8)]

    async def steps(balances: Balances) -> None:
        postings = Postings(balances.pool, replace(Settings(), coalescer_flushes_max=2))

        async def credit_and_ask(number: int) -> None:
            account_id = account_ids[number % len(account_ids)]
            for turn in range(20):
                item = Item("credit", None, account_id, 1, f"{number}-{turn}", None, None, "{}")
                posting = await postings.submit(1, item)
                balance = await balances.submit(1, account_id)
                assert balance is not None
                assert balance["version"] >= posting["credit_version"]
                assert balance["balance_minor"] == balance["version"]

        await asyncio.gather(*(credit_and_ask(number) for number in range(32)))
        await postings.drain()

    with_coalescer(bank, steps, Balances)
    assert [call(app, "balance", account_id)["balance_minor"] for account_id in account_ids] == [80] * 8
