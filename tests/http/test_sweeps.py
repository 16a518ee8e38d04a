"""Sweeps over HTTP: all that is available, at most an amount."""

import httpx

from tests.http.conftest import assert_replays, balance_of, open_account, post, posted, problem_of

PATH = "/v1/sweeps"


def test_all_that_is_available_is_moved_and_what_is_held_stays(client: httpx.Client) -> None:
    ada, pool = open_account(client, balance_minor=100, overdraft_limit_minor=50), open_account(client)
    posted(post(client, "/v1/holds", {"account_id": ada, "amount_minor": 30}))
    sides = {"debit_account_id": ada, "credit_account_id": pool}
    posting = posted(post(client, PATH, sides))
    assert (posting["transaction_type"], posting["amount_minor"]) == ("transfer", 70)
    assert (balance_of(client, ada), balance_of(client, pool)) == (30, 70)
    problem = problem_of(post(client, PATH, sides), 422, "nothing_to_sweep")
    assert (problem["account_id"], problem["available_minor"]) == (ada, 0)


def test_a_sweep_has_an_upper_bound_and_replays(client: httpx.Client) -> None:
    ada, pool = open_account(client, balance_minor=100), open_account(client)
    sides = {"debit_account_id": ada, "credit_account_id": pool}
    assert assert_replays(client, PATH, {**sides, "at_most_minor": 60})["amount_minor"] == 60
    assert assert_replays(client, PATH, {**sides, "at_most_minor": 60})["amount_minor"] == 40
    assert (balance_of(client, ada), balance_of(client, pool)) == (0, 100)


def test_a_striped_account_is_not_swept(client: httpx.Client) -> None:
    hot, pool = open_account(client, overdraft_limit_minor=None), open_account(client)
    client.put(f"/v1/accounts/{hot}/stripes", json={"stripes": 2})
    problem_of(post(client, PATH, {"debit_account_id": hot, "credit_account_id": pool}), 422, "account_striped")
