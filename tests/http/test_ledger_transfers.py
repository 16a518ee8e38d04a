"""POST /v1/ledger-transfers: money goes to another ledger, and both ledgers' books balance."""

import httpx
import pytest

from tests.conftest import Connection
from tests.http.conftest import Service, assert_replays, balance_of, open_account, post, posted, problem_of
from tests.http_server import violations

PATH = "/v1/ledger-transfers"


@pytest.fixture
def sides(client: httpx.Client, other_client: httpx.Client) -> dict[str, int]:
    """An account with money, and one in the other ledger."""
    theirs = other_client.get(f"/v1/accounts/{open_account(other_client)}").json()
    ours = open_account(client, balance_minor=100)
    return {
        "debit_account_id": ours,
        "credit_ledger_id": theirs["ledger_id"],
        "credit_account_id": theirs["account_id"],
    }


def test_a_transfer_to_another_ledger_is_a_transaction_in_each(
    client: httpx.Client, other_client: httpx.Client, sides: dict[str, int], database: Connection
) -> None:
    ours = posted(post(client, PATH, {**sides, "amount_minor": 40, "description": "To the branch"}))
    assert (ours["transaction_type"], ours["counterpart_ledger_id"]) == ("cross_ledger", sides["credit_ledger_id"])
    theirs = other_client.get(f"/v1/transactions/{ours['original_transaction_id']}").json()
    assert (theirs["original_transaction_id"], theirs["counterpart_ledger_id"]) == (ours["transaction_id"], 1)
    assert (theirs["credit_account_id"], theirs["amount_minor"]) == (sides["credit_account_id"], 40)
    assert balance_of(client, sides["debit_account_id"]) == 60
    assert balance_of(other_client, sides["credit_account_id"]) == 40
    assert violations(database) == []


def test_it_replays(client: httpx.Client, other_client: httpx.Client, sides: dict[str, int]) -> None:
    assert_replays(client, PATH, {**sides, "amount_minor": 40})
    assert balance_of(other_client, sides["credit_account_id"]) == 40


def test_a_rejection_in_either_ledger_is_recorded_in_ours(
    client: httpx.Client, other_client: httpx.Client, sides: dict[str, int]
) -> None:
    problem_of(post(client, PATH, {**sides, "amount_minor": 101}), 422, "insufficient_funds")
    other_client.post(f"/v1/accounts/{sides['credit_account_id']}/freeze", json={})
    problem = problem_of(post(client, PATH, {**sides, "amount_minor": 1}), 409, "account_frozen")
    assert (problem["account_id"], problem["ledger_id"]) == (sides["credit_account_id"], sides["credit_ledger_id"])
    assert client.get(f"/v1/transactions/{problem['transaction_id']}").json()["failure_code"] == "account_frozen"
    assert balance_of(client, sides["debit_account_id"]) == 100


def test_within_a_ledger_money_is_moved_by_a_transfer(client: httpx.Client, sides: dict[str, int]) -> None:
    ours = {"credit_ledger_id": 1, "credit_account_id": open_account(client)}
    problem_of(post(client, PATH, {**sides, **ours, "amount_minor": 1}), 422, "same_ledger")


def test_an_unknown_ledger_or_account_is_not_found(client: httpx.Client, sides: dict[str, int]) -> None:
    for unknown in ({"credit_ledger_id": 999_999}, {"credit_account_id": 10**12}):
        problem_of(post(client, PATH, {**sides, **unknown, "amount_minor": 1}), 404, "account_not_found")


def test_only_an_administrator_reaches_beyond_the_ledger_of_the_key(service: Service, sides: dict[str, int]) -> None:
    scopes = ("accounts:read", "accounts:write", "transactions:write", "transactions:force")
    with service.http.client(service.create_key(*scopes)) as clerk:
        problem = problem_of(post(clerk, PATH, {**sides, "amount_minor": 1}), 403, "insufficient_scope")
    assert problem["required_scope"] == "admin"
