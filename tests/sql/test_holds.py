"""Holds: money is reserved, captured in parts, or given up."""

import pytest

from tests.conftest import Connection
from tests.helpers import authorise, balance_of, balances_of, call, count, hold_state, open_account, raises, violations

SETTLEMENT = 1


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 1000)


@pytest.fixture
def shop(app: Connection) -> int:
    return open_account(app)


def test_an_authorisation_reserves_and_moves_nothing(app: Connection, owner: Connection, ada: int, shop: int) -> None:
    entries = count(owner, "entry")
    posted = call(app, "authorise", ada, 400, shop, description="Hotel")
    assert (posted["transaction_type"], posted["transaction_status"]) == ("hold", "success")
    assert posted["debit_balance_after_minor"] is posted["debit_version"] is None
    assert balances_of(app, ada) == (1000, 400, 600)
    assert count(owner, "entry") == entries
    hold = call(app, "hold", posted["transaction_id"])
    assert (hold["account_id"], hold["beneficiary_account_id"], hold["description"]) == (ada, shop, "Hotel")
    assert violations(app) == []


def test_what_is_held_can_be_spent_by_nobody_else(app: Connection, ada: int, shop: int) -> None:
    authorise(app, ada, 400, shop)
    rejected = call(app, "transfer", ada, shop, 601)
    assert rejected["failure_code"] == "insufficient_funds"
    assert rejected["failure_detail"]["available_minor"] == 600
    assert call(app, "authorise", ada, 601, shop)["failure_code"] == "insufficient_funds"
    assert call(app, "transfer", ada, shop, 600)["failure_code"] is None
    assert balances_of(app, ada) == (400, 400, 0)
    assert violations(app) == []


def test_a_hold_may_use_the_overdraft(app: Connection, shop: int) -> None:
    account_id = open_account(app, overdraft_limit_minor=50)
    hold_id = authorise(app, account_id, 50, shop)
    assert balances_of(app, account_id) == (0, 50, 0)
    assert call(app, "capture", hold_id)["debit_balance_after_minor"] == -50
    assert violations(app) == []


def test_a_capture_takes_all_that_is_left(app: Connection, ada: int, shop: int) -> None:
    hold_id = authorise(app, ada, 400, shop)
    captured = call(app, "capture", hold_id)
    assert (captured["transaction_type"], captured["amount_minor"]) == ("capture", 400)
    assert captured["original_transaction_id"] == hold_id
    assert balances_of(app, ada) == (600, 0, 600)
    assert balance_of(app, shop) == 400
    assert hold_state(app, hold_id) == ("captured", 400, 0)
    assert violations(app) == []


def test_a_hold_is_captured_in_parts_until_the_final_one_frees_the_rest(app: Connection, ada: int, shop: int) -> None:
    hold_id = authorise(app, ada, 400, shop)
    call(app, "capture", hold_id, 100)
    assert hold_state(app, hold_id) == ("open", 100, 300)
    assert balances_of(app, ada) == (900, 300, 600)
    call(app, "capture", hold_id, 50, final=True)
    assert hold_state(app, hold_id) == ("captured", 150, 0)
    assert balances_of(app, ada) == (850, 0, 850)
    again = call(app, "capture", hold_id, 1)
    assert again["failure_code"] == "hold_not_open"
    assert again["failure_detail"] == {"hold_id": hold_id, "hold_status": "captured"}
    assert violations(app) == []


def test_parts_that_add_up_to_the_whole_end_the_hold(app: Connection, ada: int, shop: int) -> None:
    hold_id = authorise(app, ada, 400, shop)
    call(app, "capture", hold_id, 399)
    assert call(app, "capture", hold_id)["amount_minor"] == 1
    assert hold_state(app, hold_id) == ("captured", 400, 0)
    assert violations(app) == []


def test_a_capture_without_beneficiary_leaves_the_bank(app: Connection, ada: int) -> None:
    before = balance_of(app, SETTLEMENT)
    captured = call(app, "capture", authorise(app, ada, 400))
    assert captured["credit_account_id"] == SETTLEMENT
    assert balance_of(app, SETTLEMENT) == before + 400
    assert violations(app) == []


def test_more_than_is_held_is_not_captured(app: Connection, ada: int, shop: int) -> None:
    hold_id = authorise(app, ada, 400, shop)
    call(app, "capture", hold_id, 100)
    rejected = call(app, "capture", hold_id, 301)
    assert rejected["failure_code"] == "capture_exceeds_hold"
    assert rejected["failure_detail"] == {"hold_id": hold_id, "left_minor": 300, "tolerance_minor": 0}
    assert hold_state(app, hold_id) == ("open", 100, 300)
    assert balances_of(app, ada) == (900, 300, 600)
    assert violations(app) == []


@pytest.mark.parametrize(("amount", "code"), [(440, None), (441, "capture_exceeds_hold")])
def test_a_tolerance_lets_a_capture_exceed_by_so_much(
    app: Connection, ada: int, shop: int, amount: int, code: str | None
) -> None:
    hold_id = authorise(app, ada, 400, shop, tolerance_minor=40)
    call(app, "capture", hold_id, 10)
    assert call(app, "capture", hold_id, amount - 10)["failure_code"] == code
    assert balances_of(app, ada) == ((560, 0, 560) if code is None else (990, 390, 600))
    assert violations(app) == []


def test_what_exceeds_the_hold_must_be_available(app: Connection, ada: int, shop: int) -> None:
    hold_id = authorise(app, ada, 400, shop, tolerance_minor=40)
    call(app, "transfer", ada, shop, 590)
    rejected = call(app, "capture", hold_id, 411)
    assert (rejected["failure_code"], rejected["failure_detail"]["available_minor"]) == ("insufficient_funds", 410)
    assert hold_state(app, hold_id) == ("open", 0, 400)
    assert call(app, "capture", hold_id, 410)["debit_balance_after_minor"] == 0
    assert violations(app) == []


def test_a_hold_that_is_given_up_is_available_again(app: Connection, ada: int, shop: int) -> None:
    hold_id = authorise(app, ada, 400, shop)
    call(app, "capture", hold_id, 100)
    voided = call(app, "void", hold_id)
    assert (voided["transaction_type"], voided["amount_minor"], voided["debit_version"]) == ("void", 300, None)
    assert hold_state(app, hold_id) == ("voided", 100, 0)
    assert balances_of(app, ada) == (900, 0, 900)
    for function in ("void", "capture"):
        assert call(app, function, hold_id)["failure_detail"] == {"hold_id": hold_id, "hold_status": "voided"}
    assert violations(app) == []


def test_a_hold_counts_for_the_account_that_is_frozen_but_is_not_captured(app: Connection, ada: int, shop: int) -> None:
    hold_id = authorise(app, ada, 400, shop)
    call(app, "freeze_account", ada)
    assert call(app, "authorise", ada, 1, shop)["failure_code"] == "account_frozen"
    assert call(app, "capture", hold_id)["failure_code"] == "account_frozen"
    assert hold_state(app, hold_id) == ("open", 0, 400)
    assert call(app, "void", hold_id)["failure_code"] is None
    assert balances_of(app, ada) == (1000, 0, 1000)
    assert violations(app) == []


def test_a_hold_is_not_captured_for_a_beneficiary_that_was_closed(app: Connection, ada: int, shop: int) -> None:
    hold_id = authorise(app, ada, 400, shop)
    call(app, "close_account", shop)
    assert call(app, "capture", hold_id)["failure_detail"] == {"account_id": shop}
    assert balances_of(app, ada) == (1000, 400, 600)
    assert call(app, "void", hold_id)["failure_code"] is None
    assert violations(app) == []


def test_an_authorisation_is_rejected_as_a_transfer_would_be(app: Connection, ada: int, shop: int) -> None:
    yen = open_account(app, currency="JPY")
    assert call(app, "authorise", ada, 1, ada)["failure_code"] == "same_account"
    assert call(app, "authorise", ada, 1, yen)["failure_code"] == "currency_mismatch"
    rejected = call(app, "authorise", ada, 1001, shop)
    assert (rejected["transaction_type"], rejected["failure_code"]) == ("hold", "insufficient_funds")
    with raises("TLHLD", "hold_not_found", "hold_id"):
        call(app, "hold", rejected["transaction_id"])
    assert balances_of(app, ada) == (1000, 0, 1000)
    assert violations(app) == []


def test_an_account_with_a_hold_is_not_striped(app: Connection) -> None:
    account_id = open_account(app, overdraft_limit_minor=None)
    hold_id = authorise(app, account_id, 5)
    with raises("TLLIM", "account_limited", "account_id"):
        call(app, "stripe_account", account_id, 2)
    call(app, "capture", hold_id)
    assert call(app, "stripe_account", account_id, 2)["stripes"] == 2
    assert violations(app) == []
