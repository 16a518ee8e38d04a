"""Legs: conditions, keys and malformed calls."""

import json
from typing import Any

import pytest

from tests.conftest import Connection
from tests.helpers import Row, balance_of, call, open_account, raises, violations

SETTLEMENT = 1


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 1000)


@pytest.fixture
def shop(app: Connection) -> int:
    return open_account(app)


def post(app: Connection, *legs: tuple[Any, Any], conditions: object = (), **named: object) -> Row:
    return call(
        app, "post_legs", [account_id for account_id, _ in legs], [amount for _, amount in legs],
        json.dumps(conditions), **named,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"balance_at_least_minor": 900}, True),
        ({"balance_at_least_minor": 901}, False),
        ({"balance_at_most_minor": 900}, True),
        ({"balance_at_most_minor": 899}, False),
        ({"version": 1}, True),
        ({"version": 2}, False),
        ({"version": 0}, False),
        ({"version": 1, "balance_at_least_minor": 901}, False),
        ({}, True),
    ],
)
def test_a_condition_is_of_the_balance_after_and_the_version_before(
    app: Connection, ada: int, shop: int, condition: Row, holds: bool
) -> None:
    posted = post(app, (ada, -100), (shop, 100), conditions=[{"account_id": ada, **condition}])
    if holds:
        assert posted["failure_code"] is None
    else:
        assert posted["failure_code"] == "condition_failed"
        assert posted["failure_detail"] == {"account_id": ada, **condition, "balance_minor": 900, "version_before": 1}
    assert balance_of(app, shop) == (100 if holds else 0)
    assert violations(app) == []


def test_there_are_at_most_1000_conditions(app: Connection, ada: int, shop: int) -> None:
    condition = {"account_id": ada, "version": 1}
    with raises("TLARG", "invalid_argument", "conditions"):
        post(app, (ada, -100), (shop, 100), conditions=[condition] * 1001)
    assert post(app, (ada, -100), (shop, 100), conditions=[condition] * 1000)["failure_code"] is None


def test_the_first_condition_that_does_not_hold_is_told_after_every_other_rule(
    app: Connection, ada: int, shop: int
) -> None:
    conditions = [{"account_id": account_id, "version": at} for account_id, at in ((shop, 0), (shop, 7), (ada, 8))]
    assert post(app, (ada, -1), (shop, 1), conditions=conditions)["failure_detail"]["version"] == 7
    assert post(app, (ada, -1001), (shop, 1001), conditions=conditions)["failure_code"] == "insufficient_funds"
    assert violations(app) == []


def test_a_striped_account_has_no_conditions(app: Connection, ada: int) -> None:
    """One stripe is locked, and that knows neither the balance nor the version of the whole."""
    for condition in ({"version": 0}, {"balance_at_most_minor": 10**6}, {}):
        with raises("TLSTR", "account_striped", "conditions"):
            post(app, (ada, -1), (SETTLEMENT, 1), conditions=[{"account_id": SETTLEMENT, **condition}])
    assert balance_of(app, ada) == 1000


@pytest.mark.parametrize(
    ("legs", "field"),
    [
        ([(2, -10), (3, 9), (4, 1)], "legs"),
        ([(2, -10), (4, 10)], "credit_account_id"),
        ([(2, -11), (3, 11)], "amount_minor"),
        ([(2, -5), (2, -5), (3, 10)], "legs"),
        ([(3, 10), (2, -10)], "legs"),
    ],
)
def test_a_key_belongs_to_the_same_legs_in_the_same_order(
    app: Connection, ada: int, shop: int, legs: list[tuple[int, int]], field: str
) -> None:
    assert (ada, shop, open_account(app)) == (2, 3, 4)
    post(app, (ada, -10), (shop, 10), idempotency_key="key")
    with raises("TLKEY", "idempotency_key_reused", field):
        post(app, *legs, idempotency_key="key")
    with raises("TLKEY", "idempotency_key_reused", "transaction_type"):
        call(app, "transfer", ada, shop, 10, "key")
    assert balance_of(app, ada) == 990
    assert violations(app) == []


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ("array[2, 3], array[-5, 4]", "amounts_minor"),
        ("array[2, 3], array[-0.5, 0.5]", "amounts_minor"),
        ("array[2, 3], array[-5]", "amounts_minor"),
        ("array[2, 3], null", "amounts_minor"),
        ("null, array[-5, 5]", "account_ids"),
        ("array[2], array[0]", "account_ids"),
        ("array[2, null], array[-5, 5]", "account_ids"),
        ("array[2, 3], array[-5, null]", "amounts_minor"),
        ("array[2, 3, 3], array[-5, 5, 0]", "amounts_minor"),
        ("array[2, 3], array['NaN', 5]::numeric[]", "amounts_minor"),
        ("array[2, 3], array['-Infinity', 'Infinity']::numeric[]", "amounts_minor"),
        ("array[2, 3], array[-9007199254740992, 9007199254740992]", "amounts_minor"),
        ("array_fill(2, array[1001]), array_fill(0, array[1001])", "account_ids"),
        ("array[[2, 3], [3, 2]], array[-5, 5, 5, -5]", "account_ids"),
        ("array[2, 3, 3, 2], array[[-5, 5], [5, -5]]", "amounts_minor"),
        ("'[0:1]={2, 3}'::bigint[], array[-5, 5]", "account_ids"),
        ("array[2, 3], array[-5, 5], '{}'", "conditions"),
        ("array[2, 3], array[-5, 5], '5'", "conditions"),
        ("array[2, 3], array[-5, 5], '[5]'", "conditions"),
        ("array[2, 3], array[-5, 5], '[[]]'", "conditions"),
        ("array[2, 3], array[-5, 5], '[{}]'", "conditions"),
        ("array[2, 3], array[-5, 5], '[{\"account_id\": 99}]'", "conditions"),
        ('array[2, 3], array[-5, 5], \'[{"account_id": "2"}]\'', "conditions"),
        ('array[2, 3], array[-5, 5], \'[{"account_id": 2, "version": 1.5}]\'', "conditions"),
        ('array[2, 3], array[-5, 5], \'[{"account_id": 2, "version": null}]\'', "conditions"),
        ('array[2, 3], array[-5, 5], \'[{"account_id": 2, "version": 1e400}]\'', "conditions"),
        ("array[2, 3], array[-5, 5], '[{\"account_id\": 1e400}]'", "conditions"),
        ('array[2, 3], array[-5, 5], \'[{"account_id": 2, "balance": 5}]\'', "conditions"),
        ("array[2, 3], array[-5, 5], idempotency_key => ' '", "idempotency_key"),
        ("array[2, 3], array[-5, 5], metadata => '[]'", "metadata"),
    ],
)
def test_malformed_legs_raise(app: Connection, ada: int, shop: int, arguments: str, field: str) -> None:
    assert (ada, shop) == (2, 3)
    with raises("TLARG", "invalid_argument", field):
        app.execute(f"select bank.post_legs({arguments})".encode())


def test_an_unknown_account_raises(app: Connection, ada: int) -> None:
    for unknown in (99, 2**63 - 1, -5):
        with raises("TLACC", "account_not_found", "account_ids") as facts:
            post(app, (ada, -1), (unknown, 1))
        assert facts["account_id"] == unknown
