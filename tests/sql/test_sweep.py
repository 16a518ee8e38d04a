"""Sweep: all that is available is moved, at most a given amount."""

import datetime as dt

import pytest

from tests.conftest import Connection
from tests.helpers import authorise, balance_of, balances_of, call, call_all, expire, open_account, raises, violations

SOON = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)


@pytest.fixture
def shop(app: Connection) -> int:
    return open_account(app, 1000)


@pytest.fixture
def owner_of_shop(app: Connection) -> int:
    return open_account(app)


@pytest.mark.parametrize(("most", "moved"), [(None, 1000), (999, 999), (1000, 1000), (1001, 1000), (2**53 - 1, 1000)])
def test_all_is_moved_but_at_most_what_was_asked(
    app: Connection, shop: int, owner_of_shop: int, most: int | None, moved: int
) -> None:
    swept = call(app, "sweep", shop, owner_of_shop, most, description="Evening")
    assert (swept["transaction_type"], swept["amount_minor"], swept["description"]) == ("transfer", moved, "Evening")
    assert swept["debit_balance_after_minor"] == 1000 - moved
    assert balance_of(app, owner_of_shop) == moved
    assert violations(app) == []


def test_what_is_held_stays(app: Connection, owner: Connection, shop: int, owner_of_shop: int) -> None:
    authorise(app, shop, 300)
    gone = authorise(app, shop, 200, expires_at=SOON)
    assert call(app, "sweep", shop, owner_of_shop)["amount_minor"] == 500
    expire(owner, gone)
    assert call(app, "sweep", shop, owner_of_shop)["amount_minor"] == 200
    assert balances_of(app, shop) == (300, 300, 0)
    assert call(app, "sweep", shop, owner_of_shop)["failure_code"] == "nothing_to_sweep"
    assert violations(app) == []


def test_the_overdraft_is_not_used(app: Connection, owner_of_shop: int) -> None:
    for overdraft in (500, None):
        account_id = open_account(app, 10, overdraft_limit_minor=overdraft)
        assert call(app, "sweep", account_id, owner_of_shop)["amount_minor"] == 10
        call(app, "transfer", account_id, owner_of_shop, 5)
        rejected = call(app, "sweep", account_id, owner_of_shop)
        assert rejected["failure_code"] == "nothing_to_sweep"
        assert rejected["failure_detail"] == {"account_id": account_id, "available_minor": -5}
    assert violations(app) == []


def test_a_retry_moves_nothing_more(app: Connection, shop: int, owner_of_shop: int) -> None:
    first = call(app, "sweep", shop, owner_of_shop, idempotency_key="evening")
    call(app, "credit", shop, 77)
    assert call(app, "sweep", shop, owner_of_shop, idempotency_key="evening") == {**first, "replayed": True}
    assert balance_of(app, shop) == 77
    empty = open_account(app)
    rejected = call(app, "sweep", empty, owner_of_shop, 5, idempotency_key="empty")
    call(app, "credit", empty, 50)
    assert call(app, "sweep", empty, owner_of_shop, 5, idempotency_key="empty") == {**rejected, "replayed": True}
    with raises("TLKEY", "idempotency_key_reused", "debit_account_id"):
        call(app, "sweep", shop, owner_of_shop, idempotency_key="empty")
    assert violations(app) == []


def test_a_sweep_is_rejected_as_a_transfer_would_be(app: Connection, shop: int, owner_of_shop: int) -> None:
    assert call(app, "sweep", shop, shop)["failure_code"] == "same_account"
    assert call(app, "sweep", shop, open_account(app, currency="JPY"))["failure_code"] == "currency_mismatch"
    call(app, "set_limit", owner_of_shop, "maximum_balance", 600)
    assert call(app, "sweep", shop, owner_of_shop)["failure_code"] == "balance_above_maximum"
    assert call(app, "sweep", shop, owner_of_shop, 600)["failure_code"] is None
    call(app, "freeze_account", shop)
    assert call(app, "sweep", shop, owner_of_shop, 1)["failure_code"] == "account_frozen"
    assert len(call_all(app, "statement", shop)) == 2
    assert violations(app) == []


def test_a_striped_account_is_swept_into_but_not_out_of(app: Connection, shop: int) -> None:
    hot = open_account(app, overdraft_limit_minor=None)
    call(app, "stripe_account", hot, 4)
    assert call(app, "sweep", shop, hot)["amount_minor"] == 1000
    with raises("TLSTR", "account_striped", "debit_account_id"):
        call(app, "sweep", hot, shop)
    assert balance_of(app, hot) == 1000
    assert violations(app) == []


def test_a_malformed_sweep_raises(app: Connection, shop: int, owner_of_shop: int) -> None:
    for most in (0, -1, "1.5", "NaN", 2**53):
        with raises("TLAMT", "invalid_amount", "at_most_minor"):
            call(app, "sweep", shop, owner_of_shop, most)
    for sides, error in (
        ((99, shop), ("TLACC", "account_not_found", "debit_account_id")),
        ((shop, 99), ("TLACC", "account_not_found", "credit_account_id")),
        ((None, shop), ("TLARG", "invalid_argument", "debit_account_id")),
    ):
        with raises(*error):
            call(app, "sweep", *sides)
    with raises("TLARG", "invalid_argument", "credit_account_id"):
        app.execute("select bank.sweep(%s, null)", [shop])
    with raises("TLARG", "invalid_argument", "idempotency_key"):
        call(app, "sweep", shop, owner_of_shop, idempotency_key=" ")
    assert balance_of(app, shop) == 1000
