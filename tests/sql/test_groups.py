"""Linked groups in a batch: all of the group's items are posted, or none."""

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Bank, Connection
from tests.helpers import Row, balance_of, call, codes, count, open_account, raises, violations
from tests.sql.test_batch import comparable, items, one_by_one

Item = tuple[int | None, int | None, int | None, str | None, str | None]


def post(
    app: Connection, batch: list[Item], groups: list[int | None] | None, *, atomic: bool = False, ledger_id: int = 1
) -> list[Row]:
    columns = [list(column) for column in zip(*batch, strict=True)]
    return app.execute(
        "select * from bank.post_transfers(%s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s, %s,"
        " %s::integer[])",
        [*columns, atomic, ledger_id, groups],
    ).fetchall()


def transfer(debit: int, credit: int, amount: int, key: str | None = None) -> Item:
    return debit, credit, amount, key, None


@pytest.fixture(params=[False, True], ids=["plain", "limited"])
def ada(app: Connection, request: pytest.FixtureRequest) -> int:
    """An account with 100; with a limit of its own the batch goes another way and must do the same."""
    account_id = open_account(app, 100)
    if request.param:
        call(app, "set_limit", account_id, "day", 1_000_000)
    return account_id


@pytest.fixture
def bob(app: Connection) -> int:
    return open_account(app)


def test_a_group_that_can_be_posted_is_posted(app: Connection, ada: int, bob: int) -> None:
    rows = post(app, [transfer(ada, bob, 60), transfer(bob, ada, 10), transfer(ada, bob, 50)], [1, 1, 2])
    assert codes(rows) == [None, None, None]
    assert balance_of(app, bob) == 100
    assert violations(app) == []


def test_a_group_of_which_an_item_fails_is_not_posted_and_its_neighbours_are(
    app: Connection, owner: Connection, ada: int, bob: int
) -> None:
    batch = [transfer(ada, bob, 10), *[transfer(ada, bob, amount) for amount in (20, 999, 30)], transfer(ada, bob, 40)]
    transactions = count(owner, "transaction")
    rows = post(app, batch, [None, 7, 7, 7, 8])
    assert codes(rows) == [None, "batch_aborted", "insufficient_funds", "batch_aborted", None]
    assert rows[1]["failure_detail"]["stopped_by"] == rows[3]["failure_detail"]["stopped_by"] == 3
    assert rows[2]["failure_detail"]["available_minor"] == 70
    assert [row["debit_balance_after_minor"] for row in rows] == [90, None, None, None, 50]
    assert [row["transaction_id"] is None for row in rows] == [False, True, False, True, False]
    assert count(owner, "transaction") == transactions + 3
    assert balance_of(app, ada) == 50
    assert violations(app) == []


def test_items_after_a_group_that_was_taken_back_see_the_balances_before_it(
    app: Connection, ada: int, bob: int
) -> None:
    batch = [transfer(ada, bob, 100), transfer(bob, ada, 999), transfer(bob, ada, 1), transfer(ada, bob, 100)]
    rows = post(app, batch, [1, 1, None, None])
    assert codes(rows) == ["batch_aborted", "insufficient_funds", "insufficient_funds", None]
    assert rows[3]["debit_version"] == 2
    assert violations(app) == []


def test_the_keys_of_what_was_taken_back_are_free(app: Connection, ada: int, bob: int) -> None:
    batch = [transfer(ada, bob, 10, "a"), transfer(ada, bob, 999, "b"), transfer(ada, bob, 5, "c"),
             transfer(ada, bob, 20, "a")]  # fmt: skip
    rows = post(app, batch, [1, 1, 1, 2])
    assert codes(rows) == ["batch_aborted", "insufficient_funds", "batch_aborted", None]
    assert call(app, "find_transaction", "a")["amount_minor"] == 20
    assert call(app, "find_transaction", "b")["failure_code"] == "insufficient_funds"
    with raises("TLTXN", "transaction_not_found"):
        call(app, "find_transaction", "c")
    assert post(app, batch[2:3], [1])[0]["replayed"] is False
    assert violations(app) == []


def test_a_key_used_twice_in_a_group_names_no_transaction_that_was_taken_back(
    app: Connection, ada: int, bob: int
) -> None:
    batch = [transfer(ada, bob, 10, "a"), transfer(ada, bob, 11, "a"), transfer(ada, bob, 12, "a"),
             transfer(ada, bob, 13, "a")]  # fmt: skip
    rows = post(app, batch, [1, 1, 2, 3])
    assert codes(rows) == ["batch_aborted", "idempotency_key_reused", None, "idempotency_key_reused"]
    assert "transaction_id" not in rows[1]["failure_detail"]
    assert rows[3]["failure_detail"]["transaction_id"] == rows[2]["transaction_id"]
    assert violations(app) == []


def test_a_group_sent_again_is_stopped_by_the_same_item(app: Connection, ada: int, bob: int) -> None:
    batch = [transfer(ada, bob, 10, "a"), transfer(ada, bob, 999, "b")]
    first = post(app, batch, [1, 1])
    call(app, "credit", ada, 5000)
    again = post(app, batch, [1, 1])
    assert again == [first[0], {**first[1], "replayed": True}]
    assert violations(app) == []


def test_a_group_that_was_posted_is_replayed_as_a_whole(app: Connection, ada: int, bob: int) -> None:
    batch = [transfer(ada, bob, 10, "a"), transfer(ada, bob, 90, "b")]
    first = post(app, batch, [1, 1])
    assert post(app, batch, [1, 1]) == [{**row, "replayed": True} for row in first]
    assert balance_of(app, ada) == 0
    assert violations(app) == []


def test_an_item_that_cannot_be_recorded_stops_its_group_too(app: Connection, ada: int, bob: int) -> None:
    rows = post(app, [transfer(ada, bob, 10), transfer(ada, 999, 1), transfer(ada, bob, 0), transfer(ada, bob, 1)],
                [1, 1, 2, 2])  # fmt: skip
    assert codes(rows) == ["batch_aborted", "account_not_found", "invalid_amount", "batch_aborted"]
    assert {row["transaction_id"] for row in rows} == {None}
    assert violations(app) == []


def test_the_same_number_further_on_is_another_group(app: Connection, ada: int, bob: int) -> None:
    batch = [transfer(ada, bob, 1), transfer(ada, bob, 999), transfer(ada, bob, 2), transfer(ada, bob, 4)]
    assert codes(post(app, batch, [1, 1, 2, 1])) == ["batch_aborted", "insufficient_funds", None, None]
    assert balance_of(app, bob) == 6


def test_atomic_is_one_group_of_all_items(app: Connection, ada: int, bob: int) -> None:
    batch = [transfer(ada, bob, 1), transfer(ada, bob, 2), transfer(ada, bob, 999)]
    rows = post(app, batch, [1, 2, 3], atomic=True)
    assert codes(rows) == ["batch_aborted", "batch_aborted", "insufficient_funds"]
    assert balance_of(app, bob) == 0
    assert violations(app) == []


def test_credits_and_debits_are_linked_too(app: Connection, ada: int, bob: int) -> None:
    rows = app.execute(
        "select * from bank.post(array['credit', 'debit', 'debit'], array[null, %(ada)s, %(bob)s]::bigint[],"
        " array[%(bob)s, null, null]::bigint[], array[50, 150, 50], groups => array[1, 1, 2])",
        {"ada": ada, "bob": bob},
    ).fetchall()
    assert codes(rows) == ["batch_aborted", "insufficient_funds", "insufficient_funds"]
    assert violations(app) == []


def test_there_is_a_group_for_each_item(app: Connection, ada: int, bob: int) -> None:
    with raises("TLARG", "invalid_argument", "groups"):
        post(app, [transfer(ada, bob, 1)], [1, 2])


def each_group_by_itself(app: Connection, batch: list[Item], groups: list[int | None], ledger_id: int) -> list[Row]:
    rows: list[Row] = []
    for number, run in itertools.groupby(zip(batch, groups, strict=True), lambda pair: pair[1]):
        part = [item for item, _ in run]
        posted = one_by_one(app, part, ledger_id) if number is None else post(app, part, None, atomic=True,
                                                                              ledger_id=ledger_id)  # fmt: skip
        for row in posted:
            if row["failure_code"] == "batch_aborted":
                stopped_by = row["failure_detail"]["stopped_by"] + len(rows)
                row["failure_detail"] |= {"stopped_by": stopped_by, "reason": f"item {stopped_by} was not posted"}
        rows += posted
    return rows


@pytest.mark.parametrize("limited", [False, True])
def test_a_batch_is_equal_to_each_of_its_groups_by_itself(bank: Bank, limited: bool) -> None:
    with bank.connect() as app, bank.connect("bank_owner") as owner:

        @settings(
            max_examples=100, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck)
        )
        @given(batch=items, group_numbers=st.lists(st.sampled_from([None, 1, 1, 1, 2, 2]), min_size=25, max_size=25))
        def compare(batch: list[Any], group_numbers: list[int | None]) -> None:
            outcomes = []
            for function in (post, each_group_by_itself):
                ledger_id = call(owner, "create_ledger", "Groups")["ledger_id"]
                accounts = [
                    open_account(app, balance, currency, overdraft_limit_minor=overdraft, ledger_id=ledger_id)
                    for currency, overdraft, balance in
                    [("EUR", 0, 150), ("EUR", 100, 0), ("EUR", None, 0), ("EUR", 0, 40), ("JPY", 50, 0)]
                ]  # fmt: skip
                call(app, "freeze_account", accounts[3], ledger_id=ledger_id)
                if limited:
                    call(app, "set_limit", accounts[0], "day", 200, 4, ledger_id=ledger_id)
                    call(app, "set_limit", accounts[1], "maximum_balance", 90, ledger_id=ledger_id)
                named: dict[int, int | None] = {**dict(enumerate(accounts)), 5: 10**15, 6: None}
                rows = function(
                    app, [(named[d], named[c], *rest) for d, c, *rest in batch], group_numbers[: len(batch)],
                    ledger_id=ledger_id,
                )  # fmt: skip
                left = app.execute(
                    "select balance_minor, version from bank.account_detail where ledger_id = %s order by account_id",
                    [ledger_id],
                ).fetchall()
                assert app.execute("select * from bank.verify(%s)", [ledger_id]).fetchall() == []
                numbers = {account_id: number for number, account_id in enumerate(accounts)}
                outcomes.append((comparable(rows, numbers), left))
            assert outcomes[0] == outcomes[1]

        compare()


def test_a_replay_in_a_group_that_is_stopped_is_not_taken_back(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    call(app, "transfer", ada, bob, 60, "key")
    rows = app.execute(
        "select * from bank.post_transfers(%s, %s, %s, %s, groups => array[1, 1, 2, 3])",
        [[ada] * 4, [bob] * 4, [60, 1000, 41, 40], ["key", "more", "next", "last"]],
    ).fetchall()
    assert codes(rows) == ["batch_aborted", "insufficient_funds", "insufficient_funds", None]
    assert balance_of(app, ada) == 0
    assert violations(app) == []
