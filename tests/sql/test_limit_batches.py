"""Batches with accounts that have limits: equal to one call after another, each limit used only by what is posted."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Bank, Connection
from tests.helpers import authorise, call, call_all, codes, open_account, violations
from tests.sql.test_batch import comparable, items, one_by_one, post

LIMITS: list[tuple[int, str, int | None, int | None]] = [
    (0, "day", 300, 5),
    (0, "transaction", 100, None),
    (1, "minimum_balance", -60, None),
    (1, "maximum_balance", 150, None),
    (2, "month", None, 3),
]


@pytest.mark.parametrize("held", [False, True])
def test_a_batch_with_limits_is_equal_to_one_transfer_after_another(bank: Bank, held: bool) -> None:
    with bank.connect() as app, bank.connect("bank_owner") as owner:

        @settings(
            max_examples=60, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck)
        )
        @given(batches=st.lists(items, min_size=1, max_size=2), chosen=st.lists(st.sampled_from(LIMITS), max_size=5))
        def compare(batches: list[list[Any]], chosen: list[tuple[int, str, int | None, int | None]]) -> None:
            outcomes = []
            for function in (post, one_by_one):
                ledger_id = call(owner, "create_ledger", "Limits")["ledger_id"]
                accounts = [
                    open_account(app, balance, overdraft_limit_minor=overdraft, ledger_id=ledger_id)
                    for overdraft, balance in [(0, 400), (100, 0), (None, 0), (0, 50), (0, 0)]
                ]
                for number, kind, most, times in chosen:
                    call(app, "set_limit", accounts[number], kind, most, times, ledger_id=ledger_id)
                if held:
                    call(app, "authorise", accounts[0], 40, ledger_id=ledger_id)
                named: dict[int, int | None] = {**dict(enumerate(accounts)), 5: 10**15, 6: None}
                rows = []
                for batch in batches:
                    rows += function(app, [(named[d], named[c], *rest) for d, c, *rest in batch], ledger_id=ledger_id)
                left = app.execute(
                    "select balance_minor, version from bank.account_detail where ledger_id = %s order by account_id",
                    [ledger_id],
                ).fetchall()
                used = owner.execute(
                    "select limit_kind, used_minor, used_count from bank.account_limit where ledger_id = %s"
                    " order by account_id, limit_kind",
                    [ledger_id],
                ).fetchall()
                assert app.execute("select * from bank.verify(%s)", [ledger_id]).fetchall() == []
                numbers = {account_id: number for number, account_id in enumerate(accounts)}
                outcomes.append((comparable(rows, numbers), left, used))
            assert outcomes[0] == outcomes[1]

        compare()


def test_the_maximum_of_a_credited_account_stops_an_item_whatever_the_debited_one_has(app: Connection) -> None:
    ada, bob = open_account(app, 1000), open_account(app, 100)
    call(app, "set_limit", bob, "maximum_balance", 150)
    for _ in range(2):
        rows = call_all(app, "post_transfers", [ada, bob, ada], [bob, ada, bob], [51, 1, 51])
        assert codes(rows) == ["balance_above_maximum", None, None]
        assert rows[0]["failure_detail"] == {"account_id": bob, "limit_minor": 150}
        call(app, "transfer", bob, ada, 50)
        call(app, "set_limit", ada, "maximum_balance", 5000)
    assert violations(app) == []


def test_the_minimum_is_of_what_is_not_held_in_a_batch_too(app: Connection) -> None:
    ada, bob = open_account(app, 1000), open_account(app)
    call(app, "set_limit", ada, "minimum_balance", 300)
    authorise(app, ada, 200, bob)
    rows = call_all(app, "post_transfers", [ada, ada], [bob, bob], [501, 500])
    assert codes(rows) == ["balance_below_minimum", None]
    assert violations(app) == []


def test_what_is_taken_back_with_its_group_is_not_used(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    call(app, "set_limit", ada, "day", 1000, 3)
    rows = app.execute(
        "select * from bank.post_transfers(%s, %s, %s, groups => array[1, 1, 2, 3])",
        [[ada] * 4, [bob] * 4, [60, 60, 60, 5]],
    ).fetchall()
    assert codes(rows) == ["batch_aborted", "insufficient_funds", None, None]
    (limit,) = call_all(app, "limits", ada)
    assert (limit["used_minor"], limit["used_count"]) == (65, 2)
    assert violations(app) == []


def test_a_limit_stops_an_atomic_batch(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    call(app, "set_limit", ada, "day", None, 2)
    rows = post(app, [(ada, bob, 1, f"key-{number}", None) for number in range(3)], atomic=True)
    assert codes(rows) == ["batch_aborted", "batch_aborted", "day_count_exceeded"]
    assert call_all(app, "limits", ada)[0]["used_count"] == 0
    assert call(app, "find_transaction", "key-2")["failure_code"] == "day_count_exceeded"
    assert violations(app) == []


def test_a_key_used_by_another_kind_of_posting_leaves_nothing_in_the_items_after_it(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    call(app, "capture", authorise(app, ada, 10, bob), idempotency_key="capture")
    call(app, "post_legs", [ada, bob], [-1, 1], idempotency_key="legs")
    sent = [(10, "capture"), (5, "new"), (5, "new"), (1, "legs"), (6, "newer"), (6, "newer")]
    rows = post(app, [(ada, bob, amount, key, None) for amount, key in sent])
    assert codes(rows) == ["idempotency_key_reused", None, None] * 2
    assert [row["replayed"] for row in rows] == [False, False, True] * 2
    assert violations(app) == []


def test_a_batch_writes_each_account_and_each_limit_once(app: Connection) -> None:
    """However many of its items are of the same account; what each item writes anew makes a batch quadratic."""
    ada, bob = open_account(app, 1000), open_account(app)
    for account_id in (ada, bob):
        call(app, "set_limit", account_id, "day", 10**6, 10**6)
    with app.transaction():
        before = updates(app)
        call_all(app, "post_transfers", [ada, bob] * 100, [bob, ada] * 100, [3, 1] * 100)
        assert updates(app) - before == Counter(account=2, account_limit=2)
    assert violations(app) == []


def updates(app: Connection) -> Counter[str]:
    """How many rows of each table this session has updated that it has not reported yet."""
    rows = app.execute("select relname, n_tup_upd from pg_stat_xact_all_tables where schemaname = 'bank'").fetchall()
    return Counter({row["relname"]: row["n_tup_upd"] for row in rows})
