"""What a clock that leapt seventy years ahead leaves behind, and `pgteller correct-times`, which mends it.

A history is made first, then its times are changed to what a leap would have made of them. The rule of postings is that
a transaction has the clock's time, and an entry that or the last one of its account's row, whichever is later.
"""

import itertools
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.correct_times import clock_fault, correct_times
from service.owner import connect
from tests.cli.conftest import Run
from tests.conftest import Bank, Connection
from tests.helpers import Row, authorise, call, call_all, expire, open_account, violations

SETTLEMENT = 1
LATER = "interval '70 years'"

# Where times are: all that is said of an account and its transactions but these stays as it is.
TABLES = ["account", "transaction", "entry", "hold", "account_limit"]
TIMES = ["created_at", "last_entry_at", "ended_at", "window_started_at"]

# The entries follow from the transactions, and the accounts from their entries.
FOLLOW = """
update bank.entry as e set created_at = chain.at
from (
    select x.ledger_id, x.account_id, x.version,
        max(t.created_at) over (partition by x.ledger_id, x.account_id order by x.version) as at
    from bank.entry as x inner join bank.transaction as t using (ledger_id, transaction_id)
) as chain
where (e.ledger_id, e.account_id, e.version) = (chain.ledger_id, chain.account_id, chain.version);
update bank.account as a set last_entry_at = e.created_at
from bank.entry as e where (e.ledger_id, e.account_id, e.version) = (a.ledger_id, a.account_id, a.version)
"""


def history(app: Connection, owner: Connection, seed: int) -> tuple[int, int]:
    """Post in every way; return the first and the last transaction of the leap, which is in the middle of it."""
    choose = random.Random(seed)  # noqa: S311 - not a secret
    accounts = [open_account(app, 5000) for _ in range(4)]
    hot = int(call(app, "open_account", "Hot", "EUR", None)["account_id"])
    call(app, "stripe_account", hot, 3)
    call(app, "set_limit", accounts[0], "day", 1_000_000)
    marks = []
    for step in range(60):
        if step in (20, 45):
            marks.append(int(call(app, "transfer", accounts[0], accounts[1], 1)["transaction_id"]))
        here, there = choose.sample([*accounts, hot], 2)
        card, shop = choose.sample(accounts[:4], 2)
        match choose.randrange(8):
            case 0:
                call(app, "transfer", here, there, 99_999_999)  # fails, unless the striped one pays
            case 1:
                hold = authorise(app, card, 5, shop)
                if choose.random() < 0.7:
                    call(app, "capture", hold, choose.randint(1, 5), choose.random() < 0.5)
            case 2:
                call(app, "void", authorise(app, card, 5))
            case 3:
                expire(owner, authorise(app, card, 5))
                call(app, "debit", card, 1)
            case 4:
                call(app, "post_legs", [here, there, shop], [-3, 1, 2])
            case 5:
                call(app, "freeze_account", card, reason="lost")
                call(app, "unfreeze_account", card)
            case 6:
                call_all(app, "post_transfers", [here, there, here], [there, here, there], [3, 2, 1])
                call(app, "stripe_account", hot, choose.randint(1, 6))
            case _:
                accounts.append(open_account(app, choose.choice([0, 10])))
    assert violations(app) == []
    return marks[0], marks[1]


def leap(owner: Connection, first: int, last: int) -> None:
    """Let the clock have been ahead from this transaction to that one."""
    row = owner.execute(
        "select min(created_at) as began, max(created_at) as ended from bank.transaction"
        " where transaction_id between %s and %s",
        [first, last],
    ).fetchone()
    assert row is not None
    for table, column in (
        ("transaction", "created_at"),
        ("account", "created_at"),
        ("account_change", "changed_at"),
        ("hold", "ended_at"),
    ):
        change = f"update bank.{table} set {column} = {column} + {LATER} where {column} between %(began)s and %(ended)s"
        owner.execute(change.encode(), row)
    owner.execute(
        f"update bank.account_limit set window_started_at = window_started_at + {LATER}"
        " where window_started_at > '-infinity'".encode()
    )
    owner.execute(FOLLOW.encode())


def rows_of(owner: Connection, table: str, *, without_times: bool = True) -> list[Row]:
    """All rows of a table as JSON."""
    left_out = f" - '{{{','.join(TIMES)}}}'::text[]" if without_times else ""
    return owner.execute(f"select to_jsonb(t){left_out} as r from bank.{table} as t order by 1".encode()).fetchall()


def leap_all(owner: Connection, first: int, last: int) -> None:
    leap(owner, first, last)


def leap_that_lasted(owner: Connection, first: int, last: int) -> None:
    """The clock was set right only after the last posting."""
    leap(owner, first, 1_000_000)


def leap_from_the_beginning(owner: Connection, first: int, last: int) -> None:
    leap(owner, 1, last)


def contagion(owner: Connection, first: int, last: int) -> None:
    """One account with a bad time, under the rule of earlier versions: it spread through every account it met."""
    leap(owner, first, first)
    owner.execute(
        """
        do $$
        begin
            for i in 1 .. 100 loop
                update bank.transaction as t set created_at = e.at
                from (select transaction_id, max(created_at) as at from bank.entry group by 1) as e
                where e.transaction_id = t.transaction_id and e.at > t.created_at;
                exit when not found;
                update bank.entry as e set created_at = chain.at
                from (
                    select x.account_id, x.version,
                        max(t.created_at) over (partition by x.account_id order by x.version) as at
                    from bank.entry as x inner join bank.transaction as t using (ledger_id, transaction_id)
                ) as chain
                where (e.account_id, e.version) = (chain.account_id, chain.version);
            end loop;
        end
        $$
        """
    )
    owner.execute(FOLLOW.encode())


def tampering(owner: Connection, first: int, last: int) -> None:
    """Times here and there, also where those after them are right."""
    owner.execute("update bank.transaction set created_at = '2096-01-01' where transaction_id % 7 = 0")
    owner.execute("update bank.entry set created_at = '2096-01-01' where transaction_id % 7 = 0 or version % 5 = 2")
    owner.execute("update bank.account set last_entry_at = 'infinity' where account_id % 3 = 0")


CASES: list[Callable[[Connection, int, int], None]] = [
    leap_all, leap_that_lasted, leap_from_the_beginning, contagion, tampering,
]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damage", CASES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("entries_max", [3, 5000])
def test_all_times_are_right_afterwards_and_nothing_but_times_has_changed(
    bank: Bank,
    app: Connection,
    owner: Connection,
    *,
    damage: Callable[[Connection, int, int], None],
    seed: int,
    entries_max: int,
) -> None:
    first, last = history(app, owner, seed)
    true_times = times_of_transactions(owner)
    before = {table: rows_of(owner, table) for table in TABLES}
    damage(owner, first, last)
    damaged = times_of_transactions(owner)
    wrong = {transaction_id for transaction_id, at in damaged.items() if at != true_times[transaction_id]}
    assert {"entry_from_the_future"} <= {row["violation"] for row in violations(app)}
    wrong_accounts = {row["account_id"] for row in owner.execute("select * from bank.wrong_times()")}

    with connect(bank.owner_url) as connection:
        expected = correct_times(connection, dry_run=True)
        corrected = correct_times(connection, entries_max=entries_max)
        assert corrected == expected
        assert not correct_times(connection)
    assert corrected.accounts == len(wrong_accounts)
    assert corrected.transactions == len(wrong)
    assert violations(app) == []
    assert {table: rows_of(owner, table) for table in TABLES} == before
    (future,) = owner.execute(
        """
        select
            (select count(*) from bank.account where greatest(created_at, last_entry_at) > now())
            + (select count(*) from bank.account_change where changed_at > now())
            + (select count(*) from bank.hold where ended_at > now())
            + (select count(*) from bank.account_limit where window_started_at > now()) as n
        """
    ).fetchall()
    assert future == {"n": 0}

    times = times_of_transactions(owner)
    if damage is not tampering:
        assert all(at == true_times[key] for key, at in times.items() if key not in wrong)
    notes = owner.execute(
        "select account_id, before, after from bank.account_change where change_type = 'times_corrected'"
    ).fetchall()
    assert sorted(note["account_id"] for note in notes) == sorted(wrong_accounts)
    changes = owner.execute("select * from bank.account_change order by account_id, change_number").fetchall()
    for one, next_one in itertools.pairwise(changes):
        assert one["account_id"] != next_one["account_id"] or one["changed_at"] <= next_one["changed_at"]


def times_of_transactions(owner: Connection) -> dict[int, Any]:
    rows = owner.execute("select transaction_id, created_at from bank.transaction").fetchall()
    return {row["transaction_id"]: row["created_at"] for row in rows}


def test_an_entry_that_only_its_account_put_in_the_future_gets_the_time_of_its_transaction(
    bank: Bank, app: Connection, owner: Connection
) -> None:
    ada, bob = open_account(app, 500), open_account(app, 500)
    leapt = call(app, "transfer", ada, bob, 1)["transaction_id"]
    after = call(app, "transfer", ada, bob, 1)["transaction_id"]
    true_times = times_of_transactions(owner)
    leap(owner, leapt, leapt)
    with connect(bank.owner_url) as connection:
        correct_times(connection)
    times = times_of_transactions(owner)
    assert times[after] == true_times[after]
    # What was posted during the leap gets the time of the transaction before it, the last one that is known.
    assert times[leapt] == times[leapt - 1] == true_times[leapt - 1]
    entries = owner.execute("select transaction_id, created_at from bank.entry where account_id = %s", [ada]).fetchall()
    assert {row["transaction_id"]: row["created_at"] for row in entries}[after] == times[after]
    (account,) = owner.execute("select last_entry_at from bank.account where account_id = %s", [ada]).fetchall()
    assert account["last_entry_at"] == times[after]
    (change,) = call_all(app, "account_changes", ada)
    assert change["change_type"] == "times_corrected"
    assert change["before"]["last_entry_at"].startswith(f"{true_times[leapt].year + 70}-")
    assert change["after"]["last_entry_at"].startswith(f"{true_times[leapt].year}-")


def test_a_day_s_limit_counts_on_after_a_correction_what_was_debited_during_the_leap(
    bank: Bank, app: Connection, owner: Connection
) -> None:
    ada = open_account(app, 500)
    call(app, "set_limit", ada, "day", 100)
    spent = call(app, "debit", ada, 90)["transaction_id"]
    leap(owner, spent, spent)
    with connect(bank.owner_url) as connection:
        correct_times(connection)
    (limit,) = call_all(app, "limits", ada)
    assert limit["used_minor"] == 90
    assert call(app, "debit", ada, 11)["failure_code"] == "day_amount_exceeded"


def test_a_hold_that_the_leap_ended_too_soon_ended_when_it_is_corrected(
    bank: Bank, app: Connection, owner: Connection
) -> None:
    ada = open_account(app, 500)
    due, early = (authorise(app, ada, 5, expires_at=f"2095-01-0{day}") for day in (1, 2))
    owner.execute("update bank.hold set expires_at = '2020-01-01' where hold_id = %s", [due])
    owner.execute("update bank.hold set (hold_status, ended_at) = ('expired', '2096-01-01')")
    owner.execute("update bank.account set held_minor = 0 where account_id = %s", [ada])
    with connect(bank.owner_url) as connection:
        assert correct_times(connection).accounts == 1
    rows = owner.execute("select hold_id, ended_at, ended_at <= now() as past from bank.hold").fetchall()
    ended = {row["hold_id"]: row for row in rows}
    assert ended[due]["ended_at"].year == 2020
    assert ended[early]["ended_at"].year > 2020
    assert ended[early]["past"]


def test_the_command_says_what_it_does_and_a_second_run_finds_nothing(
    run: Run, app: Connection, owner: Connection
) -> None:
    ada, bob = open_account(app, 500), open_account(app, 500)
    leapt = call(app, "transfer", ada, bob, 1)["transaction_id"]
    leap(owner, leapt, leapt)
    figures = "  accounts     2\n  entries      2\n  transactions 1\n"
    told = run("correct-times", "--dry-run")
    assert (told.exit_code, told.stdout) == (0, "To be corrected:\n" + figures)
    assert run("verify").exit_code == 1
    done = run("correct-times")
    assert (done.exit_code, done.stdout) == (0, "Corrected:\n" + figures)
    assert run("verify").exit_code == 0
    again = run("correct-times")
    assert (again.exit_code, again.stdout) == (0, "No times from the future.\n")


@pytest.mark.parametrize("minutes", [-2, 2])
def test_times_are_not_corrected_by_a_clock_that_differs_from_ours(bank: Bank, minutes: int) -> None:
    with connect(bank.owner_url) as owner:
        now = datetime.now(UTC)
        assert clock_fault(owner, now) is None
        fault = clock_fault(owner, now + timedelta(minutes=minutes))
    assert fault is not None
    assert "set the wrong one right" in fault


def test_the_application_may_not_correct_times(run: Run, bank: Bank) -> None:
    denied = run("correct-times", DATABASE_OWNER_URL=bank.app_url)
    assert denied.exit_code == 1
    assert "permission denied" in denied.stderr


def test_readiness_reads_few_pages_again_after_a_correction(bank: Bank, app: Connection, owner: Connection) -> None:
    """Each range of the index reached into the future, and updates alone do not take that back."""
    ada = open_account(app, 500)
    owner.execute(
        "insert into bank.entry select 9, 1, n, n, 1, n, case when n % 1000 = 0 then '2096-01-01' else now() end"
        " from generate_series(1, 40000) as n;"
        "update bank.entry set created_at = '2096-01-01' where ledger_id = 1;"
        "select brin_summarize_new_values('bank.entry_created_at')"
    )
    with connect(bank.owner_url) as connection:
        corrected = correct_times(connection)
        # Those of ledger 9 belong to no account, and are corrected all the same.
        assert corrected.entries == 42
        connection.execute("set enable_seqscan = off")
        (row,) = connection.execute(
            "explain (analyze, buffers, format json)"
            " select from bank.entry where created_at > statement_timestamp() + bank._clock_tolerance()"
        ).fetchall()
    plan = row["QUERY PLAN"][0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 10
    assert call(app, "statement", ada)["created_at"].year < 2096
