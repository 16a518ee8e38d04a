"""The end of the exact range: what a hold reserved keeps its room there, and sums of what is used stay in it."""

from collections.abc import Callable

import pytest

from tests.conftest import Connection
from tests.helpers import Row, authorise, balance_of, call, call_all, open_account, raises, violations

MAX = 2**53 - 1


def transfer(app: Connection, debit: int, credit: int, amount: int) -> Row:
    return call(app, "transfer", debit, credit, amount)


def batch(app: Connection, debit: int, credit: int, amount: int) -> Row:
    return call_all(app, "post_transfers", [debit, debit], [credit, credit], [amount, amount])[0]


def legs(app: Connection, debit: int, credit: int, amount: int) -> Row:
    return call(app, "post_legs", [debit, credit], [-amount, amount])


def another_hold(app: Connection, debit: int, credit: int, amount: int) -> Row:
    return call(app, "authorise", debit, amount, credit)


@pytest.mark.parametrize("way", [transfer, batch, legs, another_hold])
def test_a_debit_leaves_the_room_that_a_hold_reserved(app: Connection, way: Callable[..., Row]) -> None:
    ada, bob, shop = (open_account(app, overdraft_limit_minor=None) for _ in range(3))
    hold = authorise(app, ada, 100, shop)
    rejected = way(app, ada, bob, MAX - 99)
    assert rejected["failure_code"] == "balance_overflow"
    assert rejected["failure_detail"] == {"account_id": ada, "amount_minor": MAX - 99}
    assert way(app, ada, bob, MAX - 100)["failure_code"] is None
    assert call(app, "capture", hold)["failure_code"] is None
    assert violations(app) == []


@pytest.mark.parametrize("way", [transfer, batch, legs])
def test_a_credit_reaches_the_highest_balance_and_passes_it_by_nothing(
    app: Connection, way: Callable[..., Row]
) -> None:
    ada, bob = (open_account(app, overdraft_limit_minor=None) for _ in range(2))
    assert call(app, "credit", bob, 1)["failure_code"] is None
    assert way(app, ada, bob, MAX)["failure_code"] == "balance_overflow"
    assert call(app, "transfer", ada, bob, MAX - 1)["failure_code"] is None
    rejected = way(app, ada, bob, 1)
    assert (rejected["failure_code"], rejected["failure_detail"]) == (
        "balance_overflow", {"account_id": bob, "amount_minor": 1}
    )  # fmt: skip
    assert violations(app) == []


def test_a_capture_uses_the_room_that_its_own_hold_reserved(app: Connection) -> None:
    ada, shop = (open_account(app, overdraft_limit_minor=None) for _ in range(2))
    hold = authorise(app, ada, MAX, shop)
    assert call(app, "transfer", ada, shop, 1)["failure_code"] == "balance_overflow"
    assert call(app, "capture", hold)["debit_balance_after_minor"] == -MAX
    assert violations(app) == []


def test_a_credit_passes_though_a_hold_has_taken_all_room(app: Connection) -> None:
    ada, shop = (open_account(app, overdraft_limit_minor=None) for _ in range(2))
    authorise(app, ada, MAX, shop)
    assert call(app, "post_legs", [ada, ada, shop], [-5, 10, -5])["failure_code"] is None
    assert call(app, "credit", ada, 5)["failure_code"] is None
    assert violations(app) == []


def test_a_credit_passes_though_more_is_held_than_there_is_room_for(app: Connection, owner: Connection) -> None:
    """As earlier versions let it be."""
    ada, shop = (open_account(app, overdraft_limit_minor=None) for _ in range(2))
    call(app, "transfer", ada, shop, MAX - 10)
    hold = authorise(app, ada, 10, shop)
    for table, column in (("hold", "amount_minor"), ("transaction", "amount_minor"), ("account", "held_minor")):
        key = "account_id" if table == "account" else f"{table}_id"
        number = ada if table == "account" else hold
        owner.execute(f"update bank.{table} set {column} = 20 where {key} = {number}".encode())
    assert call(app, "transfer", ada, shop, 1)["failure_code"] == "balance_overflow"
    assert call(app, "post_legs", [ada, shop], [5, -5])["failure_code"] is None
    assert call(app, "transfer", shop, ada, 1)["failure_code"] is None
    assert violations(app) == []


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_limit_of_counts_alone_never_overflows(app: Connection, *, one_by_one: bool) -> None:
    """1,030 debits of the highest amount are more than a bigint: what is used stops at the highest amount."""
    ada, bob = (open_account(app, overdraft_limit_minor=None) for _ in range(2))
    call(app, "set_limit", ada, "day", None, 2000)
    if one_by_one:
        app.execute(
            "select bank.transfer(%s, %s, %s), bank.transfer(%s, %s, %s) from generate_series(1, 1030)",
            [ada, bob, MAX, bob, ada, MAX],
        )
    else:
        sides = ([ada, bob] * 1030, [bob, ada] * 1030)
        rows = call_all(app, "post_transfers", *sides, [MAX] * 2060)
        assert {row["failure_code"] for row in rows} == {None}
    (limit,) = call_all(app, "limits", ada)
    assert (limit["used_minor"], limit["used_count"]) == (MAX, 1030)
    call(app, "set_limit", ada, "day", MAX, 2000)
    assert call(app, "transfer", ada, bob, 1)["failure_code"] == "day_amount_exceeded"
    assert violations(app) == []


def test_a_hold_expires_in_a_year_that_every_client_can_read(app: Connection) -> None:
    ada = open_account(app, 100)
    for text in ("9999-01-01 00:00:00+00", "10000-01-01 00:00:00+00", "294276-12-31 23:59:59+00"):
        with raises("TLARG", "invalid_argument", "expires_at"):
            app.execute("select * from bank.authorise(%s, 1, expires_at => %s::timestamptz)", [ada, text])
    (row,) = app.execute(
        "select * from bank.authorise(%s, 1, expires_at => '9998-12-31 23:59:59+00')", [ada]
    ).fetchall()
    app.execute("set timezone = 'Pacific/Kiritimati'")
    assert call(app, "hold", row["transaction_id"])["expires_at"].year == 9999


def test_legs_that_come_to_more_than_the_exact_range_have_the_largest_amount_of_it(app: Connection) -> None:
    """Each leg and each balance is within it, which is all that is asked of them."""
    payers = [open_account(app, overdraft_limit_minor=None) for _ in range(2)]
    payees = [open_account(app) for _ in range(2)]
    posted = call(app, "post_legs", [*payers, *payees], [-MAX, -MAX, MAX, MAX], idempotency_key="key")
    assert (posted["failure_code"], posted["amount_minor"]) == (None, MAX)
    assert call(app, "post_legs", [*payers, *payees], [-MAX, -MAX, MAX, MAX], idempotency_key="key")["replayed"]
    assert [balance_of(app, account_id) for account_id in (*payers, *payees)] == [-MAX, -MAX, MAX, MAX]
    assert violations(app) == []
