"""Transactions of many legs: all or nothing, balanced in each currency."""

import pytest

from tests.conftest import Connection
from tests.helpers import Row, authorise, balance_of, call, call_all, count, open_account, violations

SETTLEMENT = 1


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 1000)


@pytest.fixture
def shop(app: Connection) -> int:
    return open_account(app)


@pytest.fixture
def fees(app: Connection) -> int:
    return open_account(app)


def post(app: Connection, *legs: tuple[int, int], **named: object) -> Row:
    return call(app, "post_legs", [account_id for account_id, _ in legs], [amount for _, amount in legs], **named)


def test_a_sale_with_a_fee_is_one_transaction(app: Connection, ada: int, shop: int, fees: int) -> None:
    posted = post(app, (ada, -500), (shop, 485), (fees, 15), description="Sale")
    assert (posted["transaction_type"], posted["failure_code"], posted["amount_minor"]) == ("compound", None, 500)
    assert (posted["debit_account_id"], posted["credit_account_id"]) == (ada, shop)
    assert (posted["debit_balance_after_minor"], posted["credit_balance_after_minor"]) == (500, 485)
    assert posted["legs"] == [
        {"account_id": ada, "amount_minor": -500, "currency": "EUR", "version": 2, "balance_after_minor": 500},
        {"account_id": shop, "amount_minor": 485, "currency": "EUR", "version": 1, "balance_after_minor": 485},
        {"account_id": fees, "amount_minor": 15, "currency": "EUR", "version": 1, "balance_after_minor": 15},
    ]
    assert call(app, "get_transaction", posted["transaction_id"]) == posted
    assert [line["amount_minor"] for line in call_all(app, "statement", fees)] == [15]
    assert violations(app) == []


def test_one_leg_that_cannot_be_posted_stops_all(
    app: Connection, owner: Connection, ada: int, shop: int, fees: int
) -> None:
    entries = count(owner, "entry")
    rejected = post(app, (ada, -500), (fees, -1), (shop, 501))
    assert rejected["failure_code"] == "insufficient_funds"
    assert rejected["failure_detail"] == {"account_id": fees, "needed_minor": 1, "available_minor": 0}
    assert [sorted(leg) for leg in rejected["legs"]] == [["account_id", "amount_minor", "currency"]] * 3
    assert rejected["debit_version"] is rejected["credit_version"] is None
    assert count(owner, "entry") == entries
    assert call(app, "get_transaction", rejected["transaction_id"]) == rejected
    assert violations(app) == []


def test_a_payroll_of_1000_legs_is_one_transaction(app: Connection, owner: Connection) -> None:
    employer = open_account(app, 10**9)
    owner.execute(
        "insert into bank.account (ledger_id, holder_name, currency)"
        " select 1, 'Worker', 'EUR' from generate_series(1, 99)"
    )
    workers = [row["account_id"] for row in owner.execute(
        "select account_id from bank.account where holder_name = 'Worker' order by account_id")]  # fmt: skip
    legs = [(workers[number % 99], 1000 + number) for number in range(999)]
    posted = post(app, (employer, -sum(amount for _, amount in legs)), *legs)
    assert posted["failure_code"] is None
    assert len(posted["legs"]) == 1000
    assert balance_of(app, employer) == 10**9 - posted["amount_minor"]
    assert sum(balance_of(app, account_id) for account_id in workers) == posted["amount_minor"]
    assert violations(app) == []


def test_an_account_with_several_legs_is_judged_by_what_it_has_after_all(app: Connection, ada: int, shop: int) -> None:
    posted = post(app, (ada, -1500), (shop, 1500), (shop, -600), (ada, 600))
    assert posted["failure_code"] is None
    assert [leg["balance_after_minor"] for leg in posted["legs"]] == [100, 1500, 900, 1600]
    assert [leg["version"] for leg in posted["legs"]] == [3, 1, 2, 2]
    lines = call_all(app, "statement", ada)
    assert [line["balance_after_minor"] for line in lines] == [100, 1600, 1000]
    assert post(app, (ada, -701), (shop, 701), (ada, 600), (shop, -600))["failure_code"] == "insufficient_funds"
    assert violations(app) == []


def test_legs_that_cancel_out_need_no_funds(app: Connection, shop: int, fees: int) -> None:
    posted = post(app, (shop, -700), (fees, 700), (fees, -700), (shop, 700))
    assert posted["failure_code"] is None
    assert (balance_of(app, shop), balance_of(app, fees)) == (0, 0)
    assert min(line["balance_after_minor"] for line in call_all(app, "statement", shop)) == 0
    assert violations(app) == []


def test_the_legs_of_each_currency_sum_to_zero(app: Connection, ada: int, shop: int) -> None:
    yen, more_yen = open_account(app, 500, currency="JPY"), open_account(app, currency="JPY")
    posted = post(app, (ada, -10), (yen, -300), (shop, 10), (more_yen, 300))
    assert posted["failure_code"] is None
    assert (posted["currency"], posted["amount_minor"]) == ("EUR", 10)
    rejected = post(app, (ada, -10), (more_yen, 10))
    assert rejected["failure_code"] == "currency_mismatch"
    assert rejected["failure_detail"] == {"currency": "EUR", "sum_minor": -10}
    assert violations(app) == []


@pytest.mark.parametrize(
    ("amount", "code"), [(-1, "account_frozen"), (1, None)], ids=["a debit is stopped", "a credit passes"]
)
def test_a_frozen_side_stops_legs_of_that_side(
    app: Connection, ada: int, shop: int, fees: int, *, amount: int, code: str | None
) -> None:
    post(app, (ada, -50), (shop, 50))
    call(app, "freeze_account", shop, credits=False)
    assert post(app, (ada, -amount), (shop, amount))["failure_code"] == code
    call(app, "freeze_account", shop, debits=False)
    assert post(app, (ada, amount), (shop, -amount))["failure_code"] == code
    call(app, "close_account", fees)
    rejected = post(app, (ada, -2), (shop, 1), (fees, 1))
    assert (rejected["failure_code"], rejected["failure_detail"]) == ("account_closed", {"account_id": fees})
    assert violations(app) == []


def test_what_is_held_is_not_available_to_legs(app: Connection, ada: int, shop: int) -> None:
    authorise(app, ada, 400, shop)
    assert post(app, (ada, -601), (shop, 601))["failure_detail"]["available_minor"] == 600
    assert post(app, (ada, -600), (shop, 600))["failure_code"] is None
    assert violations(app) == []


def test_the_minimum_is_of_what_is_not_held_with_legs_too(app: Connection, ada: int, shop: int) -> None:
    call(app, "set_limit", ada, "minimum_balance", 300)
    hold_id = authorise(app, ada, 500, shop)
    assert post(app, (ada, -201), (shop, 201))["failure_code"] == "balance_below_minimum"
    assert post(app, (ada, -200), (shop, 200))["failure_code"] is None
    assert call(app, "capture", hold_id)["failure_code"] is None
    assert balance_of(app, ada) == 300
    assert violations(app) == []


def test_legs_keep_to_the_limits_in_the_documented_order(app: Connection, ada: int, shop: int) -> None:
    call(app, "set_limit", ada, "day", 80, 1)
    call(app, "set_limit", ada, "transaction", 90)
    call(app, "set_limit", shop, "maximum_balance", 95)
    call(app, "set_limit", ada, "minimum_balance", 901)
    found = []
    for amount in (100, 99, 95, 81, 80, 80):
        posted = post(app, (ada, -amount), (shop, amount))
        found.append(posted["failure_code"])
    assert found == [
        "balance_below_minimum", "balance_above_maximum", "transaction_limit_exceeded", "day_amount_exceeded", None,
        "balance_below_minimum",
    ]  # fmt: skip
    assert post(app, (shop, -80), (ada, 80))["failure_code"] is None
    assert post(app, (ada, -1), (shop, 1))["failure_code"] == "day_amount_exceeded"
    assert violations(app) == []


def test_several_legs_of_an_account_are_one_debit_of_what_they_come_to(app: Connection, ada: int, shop: int) -> None:
    call(app, "set_limit", ada, "day", 100, 5)
    assert post(app, (ada, -500), (shop, 500), (shop, -400), (ada, 400))["failure_code"] is None
    (limit,) = call_all(app, "limits", ada)
    assert (limit["used_minor"], limit["used_count"]) == (100, 1)
    assert post(app, (ada, -1), (shop, 1))["failure_code"] == "day_amount_exceeded"
    assert violations(app) == []


def test_a_balance_does_not_leave_the_exact_range(app: Connection) -> None:
    most = 2**53 - 1
    full, spender = open_account(app, most), open_account(app, overdraft_limit_minor=None)
    rejected = post(app, (spender, -1), (full, 1))
    assert (rejected["failure_code"], rejected["failure_detail"]) == (
        "balance_overflow", {"account_id": full, "amount_minor": 1}
    )  # fmt: skip
    assert post(app, (spender, -most), (full, most), (full, -most), (spender, most))["failure_code"] == (
        "balance_overflow"
    )
    assert post(app, (full, -most), (spender, most))["failure_code"] is None
    assert violations(app) == []


def test_a_striped_account_has_legs_on_one_of_its_stripes(app: Connection, ada: int, shop: int) -> None:
    before = balance_of(app, SETTLEMENT)
    posted = post(app, (ada, -300), (SETTLEMENT, 200), (shop, 60), (SETTLEMENT, 40))
    assert posted["failure_code"] is None
    stripes = {leg.get("stripe") for leg in posted["legs"] if leg["account_id"] == SETTLEMENT}
    assert len(stripes) == 1
    assert None not in stripes
    assert posted["credit_balance_after_minor"] is posted["credit_version"] is None
    assert all("balance_after_minor" not in leg for leg in posted["legs"] if leg["account_id"] == SETTLEMENT)
    assert balance_of(app, SETTLEMENT) == before + 240
    assert call_all(app, "statement", SETTLEMENT)[0]["balance_after_minor"] == before + 240
    assert call(app, "get_transaction", posted["transaction_id"]) == posted
    assert violations(app) == []


@pytest.mark.parametrize("legs", [[(2, -500), (3, 485), (4, 15)], [(2, -9999), (3, 9999)]], ids=["success", "failure"])
def test_a_retry_returns_the_first_outcome(
    app: Connection, owner: Connection, ada: int, shop: int, fees: int, *, legs: list[tuple[int, int]]
) -> None:
    assert (ada, shop, fees) == (2, 3, 4)
    first = post(app, *legs, idempotency_key="key", metadata='{"a": 1}')
    entries = count(owner, "entry")
    call(app, "credit", ada, 50_000)
    assert post(app, *legs, idempotency_key="key", metadata='{"a": 1}') == {**first, "replayed": True}
    assert count(owner, "entry") == entries + 2
    assert violations(app) == []
