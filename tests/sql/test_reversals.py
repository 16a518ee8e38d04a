"""Reversals: money goes back the way it came, in full or in part, never more than there was."""

import datetime as dt

import pytest

from tests.conftest import Connection
from tests.helpers import Row, authorise, balance_of, call, call_all, count, expire, open_account, raises, violations
from tests.sql.model import MAX

SETTLEMENT = 1


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 1000)


@pytest.fixture
def shop(app: Connection) -> int:
    return open_account(app)


@pytest.fixture
def paid(app: Connection, ada: int, shop: int) -> int:
    """A transfer of 400 from ada to the shop."""
    transaction_id: int = call(app, "transfer", ada, shop, 400)["transaction_id"]
    return transaction_id


def test_a_transfer_is_taken_back_in_full(app: Connection, ada: int, shop: int, paid: int) -> None:
    reversal = call(app, "reverse", paid, description="Returned")
    assert (reversal["transaction_type"], reversal["amount_minor"]) == ("reversal", 400)
    assert (reversal["debit_account_id"], reversal["credit_account_id"]) == (shop, ada)
    assert reversal["original_transaction_id"] == paid
    assert (balance_of(app, ada), balance_of(app, shop)) == (1000, 0)
    assert violations(app) == []


def test_parts_are_taken_back_until_nothing_is_left(app: Connection, ada: int, paid: int) -> None:
    assert call(app, "reverse", paid, 150)["failure_code"] is None
    rejected = call(app, "reverse", paid, 251)
    assert rejected["failure_code"] == "reversal_exceeds_original"
    assert rejected["failure_detail"] == {"transaction_id": paid, "left_minor": 250}
    assert call(app, "reverse", paid)["amount_minor"] == 250
    for amount in (None, 1):
        rejected = call(app, "reverse", paid, amount)
        assert (rejected["failure_code"], rejected["failure_detail"]["left_minor"]) == ("reversal_exceeds_original", 0)
    assert balance_of(app, ada) == 1000
    assert violations(app) == []


def test_a_reversal_of_which_nothing_is_left_is_rejected_with_the_whole_amount(app: Connection, paid: int) -> None:
    amount = call(app, "reverse", paid)["amount_minor"]
    rejected = call(app, "reverse", paid)
    assert (rejected["failure_code"], rejected["amount_minor"]) == ("reversal_exceeds_original", amount)
    assert violations(app) == []


def test_a_rejected_reversal_uses_nothing_of_the_original(app: Connection, ada: int, shop: int, paid: int) -> None:
    call(app, "transfer", shop, ada, 100)
    rejected = call(app, "reverse", paid)
    assert rejected["failure_code"] == "insufficient_funds"
    assert rejected["failure_detail"] == {"account_id": shop, "needed_minor": 400, "available_minor": 300}
    assert call(app, "reverse", paid, 300)["failure_code"] is None
    assert violations(app) == []


@pytest.mark.parametrize(("function", "other"), [("credit", SETTLEMENT), ("debit", SETTLEMENT)])
def test_money_from_and_to_the_outside_goes_back(app: Connection, ada: int, function: str, other: int) -> None:
    before = balance_of(app, other)
    posted = call(app, function, ada, 70)
    assert call(app, "reverse", posted["transaction_id"])["failure_code"] is None
    assert (balance_of(app, ada), balance_of(app, other)) == (1000, before)
    assert violations(app) == []


def test_a_capture_is_refunded(app: Connection, ada: int, shop: int) -> None:
    captured = call(app, "capture", authorise(app, ada, 300, shop), 200)
    call(app, "reverse", captured["transaction_id"], 50)
    row = call(app, "balance", ada)
    assert (row["balance_minor"], row["held_minor"]) == (850, 100)
    assert violations(app) == []


def test_an_exchange_and_legs_are_taken_back_as_a_whole(app: Connection, ada: int, shop: int) -> None:
    yen, fees = open_account(app, currency="JPY"), open_account(app)
    exchanged = call(app, "exchange", ada, yen, 333, "163.25")
    legs = call(app, "post_legs", [ada, shop, fees], [-100, 97, 3])
    for posted in (exchanged, legs):
        part = call(app, "reverse", posted["transaction_id"], 1)
        assert part["failure_code"] == "reversal_exceeds_original"
        reversal = call(app, "reverse", posted["transaction_id"], idempotency_key=str(posted["transaction_id"]))
        assert reversal["failure_code"] is None
        assert [-leg["amount_minor"] for leg in reversal["legs"]] == [leg["amount_minor"] for leg in posted["legs"]]
        again = call(app, "reverse", posted["transaction_id"])
        assert (again["failure_code"], again["failure_detail"]["left_minor"]) == ("reversal_exceeds_original", 0)
        retried = call(app, "reverse", posted["transaction_id"], idempotency_key=str(posted["transaction_id"]))
        assert retried == {**reversal, "replayed": True}
    assert [balance_of(app, account_id) for account_id in (ada, shop, fees, yen)] == [1000, 0, 0, 0]
    assert violations(app) == []


def test_an_exchange_that_is_taken_back_by_its_amount_is_retried_by_its_amount(app: Connection, ada: int) -> None:
    """The reversal debits the other currency, and has another amount."""
    yen = open_account(app, currency="JPY")
    exchanged = call(app, "exchange", ada, yen, 333, "163.25")["transaction_id"]
    reversal = call(app, "reverse", exchanged, 333, idempotency_key="back")
    assert (reversal["failure_code"], reversal["amount_minor"]) == (None, 543)
    assert call(app, "reverse", exchanged, 333, idempotency_key="back") == {**reversal, "replayed": True}
    assert violations(app) == []


def test_what_is_no_movement_of_this_ledger_s_own_is_not_reversible(
    app: Connection, owner: Connection, ada: int, shop: int, paid: int
) -> None:
    hold_id = authorise(app, ada, 10, shop)
    other_ledger = call(owner, "create_ledger", "Other")["ledger_id"]
    theirs = open_account(app, ledger_id=other_ledger)
    postings = [
        call(app, "transfer", shop, ada, 9999),
        call(app, "get_transaction", hold_id),
        call(app, "void", hold_id),
        call(app, "reverse", paid, 1),
        call(app, "transfer_to_ledger", ada, other_ledger, theirs, 5),
    ]
    for posted in postings:
        with raises("TLREV", "not_reversible", "transaction_id"):
            call(app, "reverse", posted["transaction_id"])
    with raises("TLTXN", "transaction_not_found"):
        call(app, "reverse", 10**9)
    with raises("TLTXN", "transaction_not_found"):
        call(app, "reverse", paid, ledger_id=other_ledger)
    with raises("TLAMT", "invalid_amount"):
        call(app, "reverse", paid, 0)
    assert violations(app) == []


def test_a_retry_returns_the_first_outcome_though_less_is_left(app: Connection, ada: int, shop: int, paid: int) -> None:
    first = call(app, "reverse", paid, 100, idempotency_key="part")
    rest = call(app, "reverse", paid, idempotency_key="rest")
    assert call(app, "reverse", paid, 100, idempotency_key="part") == {**first, "replayed": True}
    assert call(app, "reverse", paid, idempotency_key="rest") == {**rest, "replayed": True}
    other = call(app, "transfer", ada, shop, 100)["transaction_id"]
    with raises("TLKEY", "idempotency_key_reused", "transaction_id"):
        call(app, "reverse", other, 100, idempotency_key="part")
    assert violations(app) == []


def test_a_forced_reversal_overdraws_and_says_who_allowed_it(app: Connection, ada: int, shop: int, paid: int) -> None:
    call(app, "transfer", shop, ada, 350)
    reversal = call(app, "reverse", paid, force=True, changed_by="eve", idempotency_key="key")
    assert (reversal["failure_code"], reversal["debit_balance_after_minor"]) == (None, -350)
    assert call(app, "account", shop)["overdraft_limit_minor"] == 350
    (change,) = call_all(app, "account_changes", shop)
    assert (change["change_type"], change["changed_by"]) == ("overdraft_forced", "eve")
    assert (change["before"], change["after"]) == ({"overdraft_limit_minor": 0}, {"overdraft_limit_minor": 350})
    assert call(app, "reverse", paid, force=True, idempotency_key="key") == {**reversal, "replayed": True}
    assert len(call_all(app, "account_changes", shop)) == 1
    assert violations(app) == []


def test_a_forced_reversal_leaves_what_is_held(app: Connection, shop: int, paid: int) -> None:
    hold_id = authorise(app, shop, 150)
    assert call(app, "reverse", paid)["failure_code"] == "insufficient_funds"
    assert call(app, "reverse", paid, force=True)["debit_balance_after_minor"] == 0
    assert call(app, "account", shop)["overdraft_limit_minor"] == 150
    assert call(app, "capture", hold_id)["failure_code"] is None
    assert violations(app) == []


def test_a_forced_reversal_allows_no_overdraft_for_a_hold_that_has_expired(
    app: Connection, owner: Connection, shop: int, paid: int
) -> None:
    call(app, "debit", shop, 50)
    expire(owner, authorise(app, shop, 150, expires_at=dt.datetime.now(dt.UTC) + dt.timedelta(days=1)))
    assert call(app, "reverse", paid, force=True)["debit_balance_after_minor"] == -50
    assert call(app, "account", shop)["overdraft_limit_minor"] == 50
    assert violations(app) == []


@pytest.mark.parametrize(("held", "code"), [(0, None), (1, "insufficient_funds")])
def test_a_forced_reversal_allows_no_overdraft_beyond_the_exact_range(app: Connection, held: int, code: str) -> None:
    """What the account has after it, less what is held, must be a number that every client can read."""
    account_id, other = open_account(app, overdraft_limit_minor=5), open_account(app)
    credited = call(app, "credit", account_id, MAX)["transaction_id"]
    call(app, "transfer", account_id, other, MAX)
    if held:
        authorise(app, account_id, held)
    reversal = call(app, "reverse", credited, force=True)
    assert reversal["failure_code"] == code
    assert call(app, "account", account_id)["overdraft_limit_minor"] == (5 if held else MAX)
    assert balance_of(app, account_id) == (0 if held else -MAX)
    assert violations(app) == []


def test_force_changes_nothing_where_there_is_enough(app: Connection, shop: int, paid: int) -> None:
    assert call(app, "reverse", paid, force=True)["failure_code"] is None
    assert call(app, "account", shop)["overdraft_limit_minor"] == 0
    assert call_all(app, "account_changes", shop) == []
    assert violations(app) == []


def test_force_passes_no_other_rule(app: Connection, owner: Connection, ada: int, shop: int, paid: int) -> None:
    call(app, "transfer", shop, ada, 350)
    assert call(app, "reverse", paid, 401, force=True)["failure_code"] == "reversal_exceeds_original"
    call(app, "freeze_account", shop, credits=False)
    assert call(app, "reverse", paid, force=True)["failure_code"] == "account_frozen"
    call(app, "unfreeze_account", shop)
    call(app, "set_limit", shop, "minimum_balance", 0)
    assert call(app, "reverse", paid, force=True)["failure_code"] == "balance_below_minimum"
    assert call(app, "account", shop)["overdraft_limit_minor"] == 0
    assert "overdraft_forced" not in {change["change_type"] for change in call_all(app, "account_changes", shop)}
    assert count(owner, "entry") == 6
    assert violations(app) == []


@pytest.mark.parametrize("changed_by", [" ", "x" * 256])
def test_who_forces_is_a_text_like_any_other(app: Connection, ada: int, shop: int, paid: int, changed_by: str) -> None:
    call(app, "transfer", shop, ada, 350)
    with raises("TLARG", "invalid_argument", "changed_by"):
        call(app, "reverse", paid, force=True, changed_by=changed_by)
    assert call_all(app, "account_changes", shop) == []


@pytest.mark.parametrize("kind", ["exchange", "legs"])
def test_a_forced_reversal_overdraws_all_who_got_something(app: Connection, ada: int, shop: int, kind: str) -> None:
    yen = open_account(app, currency="JPY")
    request: tuple[object, ...] = ("exchange", ada, yen, 100, "1.6")
    if kind == "legs":
        request = ("post_legs", [ada, shop, shop], [-100, 60, 40])
    posted: Row = call(app, *request)  # type: ignore[arg-type]
    assert posted["failure_code"] is None
    spent = yen if kind == "exchange" else shop
    assert call(app, "debit", spent, balance_of(app, spent))["failure_code"] is None
    assert call(app, "reverse", posted["transaction_id"])["failure_code"] == "insufficient_funds"
    reversal = call(app, "reverse", posted["transaction_id"], force=True, changed_by="eve")
    assert reversal["failure_code"] is None
    assert balance_of(app, ada) == 1000
    assert [change["changed_by"] for change in call_all(app, "account_changes", spent)] == ["eve"]
    assert violations(app) == []
