"""Transactions of many legs over HTTP: all or nothing, with conditions."""

from typing import Any

import httpx
import pytest

from tests.http.conftest import (
    assert_replays,
    balance_of,
    fields_of,
    new_key,
    open_account,
    post,
    posted,
    problem_of,
)

PATH = "/v1/transactions"


def legs(*pairs: tuple[int, int]) -> list[dict[str, int]]:
    return [{"account_id": account_id, "amount_minor": amount_minor} for account_id, amount_minor in pairs]


@pytest.fixture
def accounts(client: httpx.Client) -> tuple[int, int, int]:
    """A payer with 1000, a seller and the one who takes the fee."""
    return open_account(client, balance_minor=1000), open_account(client), open_account(client)


def test_a_payment_is_split_in_one_transaction(client: httpx.Client, accounts: tuple[int, int, int]) -> None:
    ada, shop, fee = accounts
    body = {"legs": legs((ada, -1000), (shop, 970), (fee, 30)), "description": "Sale", "metadata": {"order": 7}}
    posting = posted(post(client, PATH, body))
    assert (posting["transaction_type"], posting["amount_minor"], posting["currency"]) == ("compound", 1000, "EUR")
    assert (posting["description"], posting["metadata"]) == ("Sale", {"order": 7})
    assert posting["legs"] == [
        {
            "account_id": account_id,
            "amount_minor": amount,
            "balance_after_minor": after,
            "currency": "EUR",
            "version": v,
        }
        for account_id, amount, after, v in [(ada, -1000, 0, 2), (shop, 970, 970, 1), (fee, 30, 30, 1)]
    ]
    assert [balance_of(client, account_id) for account_id in accounts] == [0, 970, 30]
    assert client.get(f"{PATH}/{posting['transaction_id']}").json() == posting


def test_one_leg_that_cannot_be_posted_stops_them_all(client: httpx.Client, accounts: tuple[int, int, int]) -> None:
    ada, shop, fee = accounts
    answer = post(client, PATH, {"legs": legs((ada, -1000), (fee, -1), (shop, 1001))})
    problem = problem_of(answer, 422, "insufficient_funds")
    assert (problem["account_id"], problem["needed_minor"], problem["available_minor"]) == (fee, 1, 0)
    assert [balance_of(client, account_id) for account_id in accounts] == [1000, 0, 0]
    assert client.get(f"{PATH}/{problem['transaction_id']}").json()["failure_code"] == "insufficient_funds"


def test_each_currency_sums_to_zero(client: httpx.Client, accounts: tuple[int, int, int]) -> None:
    dollars = open_account(client, "USD")
    problem_of(post(client, PATH, {"legs": legs((accounts[0], -5), (dollars, 5))}), 422, "currency_mismatch")
    problem = problem_of(
        post(client, PATH, {"legs": legs((accounts[0], -5), (accounts[1], 4))}), 400, "invalid_argument"
    )
    assert fields_of(problem) == ["legs"]
    assert problem["detail"] == "legs do not sum to zero"


@pytest.mark.parametrize(
    ("member", "good", "bad"),
    [("balance_at_least_minor", 900, 901), ("balance_at_most_minor", 900, 899), ("version", 1, 2)],
)
def test_a_condition_is_about_the_balance_after_or_the_version_before(
    client: httpx.Client, accounts: tuple[int, int, int], member: str, good: int, bad: int
) -> None:
    ada, shop, _ = accounts
    body: dict[str, Any] = {"legs": legs((ada, -100), (shop, 100))}
    refused = post(client, PATH, {**body, "conditions": [{"account_id": ada, member: bad}]})
    problem = problem_of(refused, 409, "condition_failed")
    assert (problem["account_id"], problem[member]) == (ada, bad)
    assert (problem["balance_minor"], problem["version_before"]) == (900, 1)
    posted(post(client, PATH, {**body, "conditions": [{"account_id": ada, member: good}]}))


def test_legs_replay(client: httpx.Client, accounts: tuple[int, int, int]) -> None:
    ada, shop, fee = accounts
    body = {"legs": legs((ada, -100), (shop, 90), (fee, 10)), "conditions": [{"account_id": ada, "version": 1}]}
    assert_replays(client, PATH, body)
    assert [balance_of(client, account_id) for account_id in accounts] == [900, 90, 10]


def test_a_key_stays_with_its_legs(client: httpx.Client, accounts: tuple[int, int, int]) -> None:
    ada, shop, fee = accounts
    key = new_key()
    posted(post(client, PATH, {"legs": legs((ada, -100), (shop, 90), (fee, 10))}, **key))
    other = post(client, PATH, {"legs": legs((ada, -100), (shop, 80), (fee, 20))}, **key)
    assert fields_of(problem_of(other, 422, "idempotency_key_reused")) == ["legs"]


def test_a_transaction_of_a_thousand_legs(client: httpx.Client, accounts: tuple[int, int, int]) -> None:
    ada, shop, fee = accounts
    posting = posted(post(client, PATH, {"legs": legs((ada, -999), *[(shop, 1), (fee, 1)] * 499, (shop, 1))}))
    assert len(posting["legs"]) == 1000
    assert [balance_of(client, account_id) for account_id in accounts] == [1, 500, 499]
