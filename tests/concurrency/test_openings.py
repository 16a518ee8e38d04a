"""Openings that race: keys and external ids are decided once, and no two calls wait for each other in a circle.

A call takes what another may wait for in one order: settlement accounts by currency, then keys, then external ids,
each ascending, whatever the order of its items. So a call that waits for one of them has none that comes after it.
"""

import pytest

from tests.concurrency.conftest import Sessions, posting, sqlstate_and_code
from tests.conftest import Connection
from tests.helpers import count, violations

ADA = "select * from bank.open_account('Ada', 'EUR', idempotency_key => 'k')"


@pytest.fixture(autouse=True)
def first_account(app: Connection) -> int:
    """Account 2, so that nobody waits for the settlement account."""
    return int(posting(app, "open_account('Zoe', 'EUR')")["account_id"])


def many(currencies: str = "EUR EUR", keys: str = "", external_ids: str = "") -> str:
    """A call that opens two accounts, named after their place."""
    arrays = {"currencies": currencies, "idempotency_keys": keys, "external_ids": external_ids}
    given = [f"{name} => '{{{','.join(text.split())}}}'" for name, text in arrays.items() if text]
    return f"select * from bank.open_accounts('{{One,Two}}', {', '.join(given)})"


def test_a_retry_that_races_the_first_request_returns_its_account(sessions: Sessions, owner: Connection) -> None:
    first = sessions.idle(autocommit=False)
    opened = posting(first, "open_account('Ada', 'EUR', idempotency_key => 'k')")
    before = count(owner, "account")
    retry = sessions.start(ADA)
    assert retry.is_blocked_by(first)
    first.commit()
    assert retry.row() == {**opened, "replayed": True}
    assert count(owner, "account") == before + 1
    assert violations(owner) == []


def test_a_retry_opens_the_account_when_the_first_request_rolls_back(sessions: Sessions, owner: Connection) -> None:
    first = sessions.holding(ADA)
    retry = sessions.start(ADA)
    assert retry.is_blocked_by(first)
    first.rollback()
    assert (retry.row()["holder_name"], retry.row()["replayed"]) == ("Ada", False)
    assert count(owner, "opening") == 1


def test_a_raced_key_of_another_request_is_refused_once_the_first_commits(sessions: Sessions) -> None:
    first = sessions.holding(ADA)
    other = sessions.start("select * from bank.open_account('Bob', 'EUR', idempotency_key => 'k')")
    assert other.is_blocked_by(first)
    first.commit()
    assert sqlstate_and_code(other.rows) == ("TLKEY", "idempotency_key_reused")


def test_a_retry_that_races_a_request_with_an_external_id_replays_and_is_not_told_that_the_id_is_taken(
    sessions: Sessions,
) -> None:
    ada = "select * from bank.open_account('Ada', 'EUR', external_id => 'ada', idempotency_key => 'k')"
    first = sessions.holding(ada)
    retry = sessions.start(ada)
    assert retry.is_blocked_by(first)
    first.commit()
    assert retry.row()["replayed"]


def test_a_key_given_back_by_a_request_that_failed_is_used_by_the_one_that_waited(
    sessions: Sessions, app: Connection
) -> None:
    posting(app, "open_account('Ada', 'EUR', external_id => 'ada')")
    first = sessions.idle(autocommit=False)
    [refused, _] = first.execute(many(keys="k l", external_ids="ada free")).fetchall()
    assert refused["failure_code"] == "external_id_taken"
    waiter = sessions.start(ADA)
    assert waiter.is_blocked_by(first)
    first.commit()
    assert (waiter.row()["holder_name"], waiter.row()["replayed"]) == ("Ada", False)


@pytest.mark.parametrize(
    ("holding", "waiting", "free"),
    [
        pytest.param("'Ada', 'EUR', idempotency_key => 'a'", many(keys="b a"), "idempotency_key => 'b'", id="keys"),
        pytest.param(
            "'Ada', 'EUR', idempotency_key => 'a'", many(keys="a b"), "idempotency_key => 'b'", id="keys in order"
        ),
        pytest.param("'Ada', 'EUR', external_id => 'a'", many(external_ids="b a"), "external_id => 'b'", id="ids"),
        pytest.param(
            "'Ada', 'EUR', external_id => 'a'", many(external_ids="a b"), "external_id => 'b'", id="ids in order"
        ),
        pytest.param("'Ada', 'CHF'", many("JPY CHF"), "currency => 'JPY'", id="currencies"),
        pytest.param("'Ada', 'CHF'", many("CHF CHF", "k l"), "idempotency_key => 'k'", id="currencies before keys"),
        pytest.param(
            "'Ada', 'EUR', idempotency_key => 'k'",
            many(keys="k l", external_ids="y z"),
            "external_id => 'z'",
            id="keys before external ids",
        ),
    ],
)
def test_a_call_that_waits_has_nothing_of_what_comes_later_in_the_order(
    sessions: Sessions, app: Connection, holding: str, waiting: str, free: str
) -> None:
    holder = sessions.holding(f"select bank.open_account({holding})")
    waiter = sessions.start(waiting)
    assert waiter.is_blocked_by(holder)
    app.execute("set lock_timeout = '1ms'")
    arguments = free if "currency" in free else f"currency => 'EUR', {free}"
    assert posting(app, f"open_account('Eve', {arguments})")["holder_name"] == "Eve"
    holder.rollback()
    assert len(waiter.rows()) == 2
    assert violations(app) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (many(keys="a b"), many(keys="b a")),
        (many(external_ids="a b"), many(external_ids="b a")),
        (many("CHF JPY"), many("JPY CHF")),
    ],
    ids=["keys", "external ids", "currencies"],
)
def test_calls_in_opposite_orders_wait_for_each_other_and_end(
    sessions: Sessions, app: Connection, one: str, other: str
) -> None:
    first = sessions.holding(one)
    calls = [sessions.start(each) for each in (other, one, other)]
    assert calls[0].is_blocked_by(first)
    first.commit()
    assert [len(each.rows()) for each in calls] == [2, 2, 2]
    assert violations(app) == []


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize(
    "call",
    [
        "open_account('Ada', 'EUR', idempotency_key => 'k')",
        "open_account('Ada', 'EUR', external_id => 'a')",
        "open_account('Ada', 'CHF')",
    ],
)
def test_what_a_fixed_snapshot_cannot_see_is_a_serialization_failure_and_opens_nothing(
    sessions: Sessions, app: Connection, owner: Connection, level: str, call: str
) -> None:
    late = sessions.idle(autocommit=False)
    late.execute(f"set transaction isolation level {level}".encode())
    late.execute("select 1 from bank.currency")
    posting(app, call)
    accounts = count(owner, "account")
    assert sqlstate_and_code(lambda: posting(late, call))[0] == "40001"
    late.rollback()
    assert count(owner, "account") == accounts
