"""Reversals over HTTP: in full, in part, never more than is left, and by force only with the scope for it."""

import httpx

from tests.http.conftest import (
    Service,
    assert_replays,
    balance_of,
    fields_of,
    new_key,
    open_account,
    post,
    posted,
    problem_of,
    transfer,
)


def reverse_path(client: httpx.Client, debit: int, credit: int, amount_minor: int) -> str:
    """Return the path that reverses a new transfer."""
    return f"/v1/transactions/{posted(transfer(client, debit, credit, amount_minor))['transaction_id']}/reverse"


def test_a_reversal_brings_the_money_back_and_names_the_original(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    paid = posted(transfer(client, ada, bob, 40))
    reversal = posted(post(client, f"/v1/transactions/{paid['transaction_id']}/reverse", {"description": "Wrong"}))
    assert (reversal["transaction_type"], reversal["original_transaction_id"]) == ("reversal", paid["transaction_id"])
    assert (reversal["debit_account_id"], reversal["credit_account_id"], reversal["amount_minor"]) == (bob, ada, 40)
    assert (balance_of(client, ada), balance_of(client, bob)) == (100, 0)


def test_parts_are_reversed_until_nothing_is_left(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client, balance_minor=100)
    path = reverse_path(client, ada, bob, 40)
    posted(post(client, path, {"amount_minor": 15}))
    problem = problem_of(post(client, path, {"amount_minor": 26}), 422, "reversal_exceeds_original")
    assert problem["left_minor"] == 25
    assert posted(post(client, path, {}))["amount_minor"] == 25
    problem_of(post(client, path, {"amount_minor": 1}), 422, "reversal_exceeds_original")
    problem_of(post(client, path, {}), 422, "reversal_exceeds_original")
    assert (balance_of(client, ada), balance_of(client, bob)) == (100, 100)


def test_a_reversal_replays(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    path = reverse_path(client, ada, bob, 40)
    assert_replays(client, path, {"amount_minor": 15})
    assert_replays(client, path, {})
    assert balance_of(client, bob) == 0


def test_what_moved_nothing_or_was_taken_back_is_not_reversible(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    failed = problem_of(transfer(client, ada, bob, 101), 422, "insufficient_funds")["transaction_id"]
    hold = posted(post(client, "/v1/holds", {"account_id": ada, "amount_minor": 1}))["transaction_id"]
    reversal = posted(post(client, reverse_path(client, ada, bob, 40), {}))["transaction_id"]
    for transaction_id in (failed, hold, reversal):
        problem = problem_of(post(client, f"/v1/transactions/{transaction_id}/reverse", {}), 409, "not_reversible")
        assert fields_of(problem) == ["transaction_id"]


def test_a_reversal_that_overdraws_is_rejected_unless_forced_by_who_may(client: httpx.Client, service: Service) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    path = reverse_path(client, ada, bob, 40)
    posted(transfer(client, bob, ada, 30))
    problem = problem_of(post(client, path, {}), 422, "insufficient_funds")
    assert (problem["needed_minor"], problem["available_minor"]) == (40, 10)
    with service.http.client(service.create_key("transactions:write", "accounts:write")) as clerk:
        key = new_key()
        problem = problem_of(post(clerk, path, {"force": True}, **key), 403, "insufficient_scope")
        assert problem["required_scope"] == "transactions:force"
        found = client.get("/v1/transactions", params={"idempotency_key": key["Idempotency-Key"]})
        problem_of(found, 404, "transaction_not_found")
    with service.http.client(service.create_key("transactions:force")) as forcer:
        problem_of(post(forcer, path, {"force": True}), 403, "insufficient_scope")  # it may not post at all
    with service.http.client(service.create_key("transactions:write", "transactions:force")) as supervisor:
        reversal = posted(post(supervisor, path, {"force": True}))
    assert reversal["debit_balance_after_minor"] == -30
    [change] = client.get(f"/v1/accounts/{bob}/changes").json()["changes"]
    assert (change["changed_by"], change["after"]) == ("tests", {"overdraft_limit_minor": 30})


def test_an_administrator_may_force(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    path = reverse_path(client, ada, bob, 40)
    posted(transfer(client, bob, ada, 40))
    assert posted(post(client, path, {"force": True}))["debit_balance_after_minor"] == -40


def test_a_ledger_does_not_reverse_the_transactions_of_another(
    client: httpx.Client, other_client: httpx.Client
) -> None:
    path = reverse_path(client, open_account(client, balance_minor=100), open_account(client), 40)
    problem_of(post(other_client, path, {}), 404, "transaction_not_found")
