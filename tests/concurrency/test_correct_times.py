"""Times are corrected while the bank runs: who posts waits for one account and a moment, and nothing is missed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.correct_times import correct_times
from service.owner import connect
from tests.concurrency.conftest import Sessions, posting
from tests.conftest import Bank, Connection
from tests.helpers import Row, call, hold_other_stripes, open_account, violations

CORRECT = "select * from bank.correct_times(2, array[2], array[1], '{}', 1)"


@pytest.fixture(autouse=True)
def leapt(accounts: list[int], owner: Connection) -> None:
    """Account 2 has its last entry, transaction 1, in the year 2096."""
    owner.execute(
        "update bank.entry set created_at = '2096-01-01' where account_id = 2;"
        "update bank.account set last_entry_at = '2096-01-01' where account_id = 2"
    )


def future_of(app: Connection) -> list[Row]:
    return [row for row in violations(app) if row["account_id"] == 2]


def test_a_correction_waits_for_a_posting_in_flight_and_corrects_its_entry_too(
    sessions: Sessions, app: Connection
) -> None:
    posted = sessions.holding("select bank.transfer(2, 3, 1)")
    correction = sessions.start(CORRECT, "bank_owner")
    assert correction.is_blocked_by(posted)
    posted.commit()
    corrected = correction.row()
    assert (corrected["entry_count"], corrected["finished"]) == (2, True)
    assert future_of(app) == []


def test_a_posting_that_waited_for_a_correction_takes_the_clock(sessions: Sessions, app: Connection) -> None:
    correction = sessions.holding(CORRECT, "bank_owner")
    waiter = sessions.start("select * from bank.transfer(2, 3, 1)")
    assert waiter.is_blocked_by(correction)
    # Nobody else waits.
    assert posting(app, "transfer(4, 5, 1)")["failure_code"] is None
    correction.commit()
    assert waiter.row()["created_at"].year < 2096
    assert violations(app) == []


@pytest.mark.parametrize("number", [0, 63])
def test_a_correction_locks_every_stripe_of_the_account_too(sessions: Sessions, app: Connection, number: int) -> None:
    hot = open_account(app, overdraft_limit_minor=None)
    call(app, "stripe_account", hot, 64)
    correction = sessions.holding(f"select * from bank.correct_times({hot}, '{{}}', '{{}}', '{{}}', 1)", "bank_owner")
    waiter = sessions.start(
        f"select from bank.account where account_id = bank._stripe_id({hot}, {number}) for update", "bank_owner"
    )
    assert waiter.is_blocked_by(correction)


@pytest.mark.parametrize("number", [0, 63])
def test_the_entries_of_every_stripe_are_corrected(bank: Bank, app: Connection, owner: Connection, number: int) -> None:
    hot = open_account(app, overdraft_limit_minor=None)
    call(app, "stripe_account", hot, 64)
    with bank.connect("bank_owner", autocommit=False) as holder:
        hold_other_stripes(holder, hot, number)
        posting(app, f"transfer(3, {hot}, 1)")
        holder.rollback()
    owner.execute(
        f"update bank.entry set created_at = '2096-01-01' where bank._account_of(account_id) = {hot};"
        "update bank.account set last_entry_at = '2096-01-01'"
        f" where bank._account_of(account_id) = {hot} and version > 0".encode()
    )
    with connect(bank.owner_url) as connection:
        correct_times(connection)
    assert violations(app) == []


def test_what_is_posted_between_two_steps_of_a_correction_is_corrected_by_a_later_one(
    app: Connection, owner: Connection
) -> None:
    owner.execute("update bank.transaction set created_at = '2096-01-01' where transaction_id = 1")
    for _ in range(3):
        posting(app, "transfer(2, 3, 1)")
    step = "select * from bank.correct_times(2, array[2], %s::bigint[], '{}', 1, 2)"
    (first,) = owner.execute(step, [[1]]).fetchall()
    assert (first["entry_count"], first["next_versions"], first["finished"]) == (2, [3], False)
    posting(app, "transfer(2, 3, 1)")
    (second,) = owner.execute(step, [first["next_versions"]]).fetchall()
    assert (second["entry_count"], second["finished"]) == (2, False)
    (third,) = owner.execute(step, [second["next_versions"]]).fetchall()
    assert (third["entry_count"], third["finished"]) == (1, True)
    assert future_of(app) == []


def test_two_corrections_at_a_time_note_the_account_once(sessions: Sessions, owner: Connection) -> None:
    first = sessions.holding(CORRECT, "bank_owner")
    second = sessions.start(CORRECT, "bank_owner")
    assert second.is_blocked_by(first)
    first.commit()
    assert second.row()["entry_count"] == 0
    assert owner.execute("select account_id from bank.account_change").fetchall() == [{"account_id": 2}]


def test_a_correction_whose_transaction_is_locked_by_a_reversal_waits_and_does_not_lose_it(
    sessions: Sessions, app: Connection, owner: Connection
) -> None:
    owner.execute("update bank.transaction set created_at = '2096-01-01' where transaction_id = 1")
    reversal = sessions.holding("select bank.reverse(1, 1)")
    correction = sessions.start("select * from bank.correct_transaction_times()", "bank_owner")
    assert correction.is_blocked_by(reversal)
    reversal.commit()
    assert correction.row()["transaction_count"] >= 1
    row = owner.execute("select created_at from bank.transaction where transaction_id = 1").fetchone()
    assert row is not None
    assert row["created_at"].year < 2096


def test_the_bank_posts_while_all_its_accounts_are_corrected(bank: Bank, app: Connection, owner: Connection) -> None:
    for _ in range(20):
        for posted in ("transfer(2, 3, 1)", "credit(4, 1)", "transfer(3, 5, 1)", "debit(5, 1)"):
            posting(app, posted)
    owner.execute(
        "update bank.transaction set created_at = created_at + interval '70 years' where transaction_id > 10;"
        "update bank.entry set created_at = created_at + interval '70 years'"
        " where transaction_id > 10 and account_id <> 2;"
        "update bank.account as a set last_entry_at = e.created_at from bank.entry as e"
        " where a.account_id = e.account_id and a.version = e.version"
    )
    ended = threading.Event()

    def traffic(debit: int, credit: int) -> int:
        number = 0
        with bank.connect() as connection:
            while not ended.is_set() or number < 20:
                for call in (
                    f"transfer({debit}, {credit}, 1)",
                    f"transfer({credit}, {debit}, 1)",
                    f"credit({debit}, 1)",
                ):
                    assert posting(connection, call)["failure_code"] is None
                    number += 1
        return number

    with ThreadPoolExecutor() as executor, connect(bank.owner_url) as connection:
        running = [executor.submit(traffic, *pair) for pair in ((2, 3), (4, 5), (3, 4))]
        try:
            assert correct_times(connection, entries_max=100).accounts >= 4
        finally:
            ended.set()
        assert all(future.result() >= 20 for future in running)
        correct_times(connection)
    assert violations(app) == []
