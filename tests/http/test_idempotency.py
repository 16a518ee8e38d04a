"""A retry with the same key has the outcome of the first request, whatever came between."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import Connection
from tests.http.conftest import balance_of, fields_of, new_key, open_account, problem_of, transfer

RACERS = 32


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": ""}])
@pytest.mark.usefixtures("nothing_is_posted_after")
@pytest.mark.parametrize("route", ["credit", "debit", "transfer"])
def test_money_does_not_move_without_a_key(
    client: httpx.Client, accounts: tuple[int, int], route: str, headers: dict[str, str]
) -> None:
    path, body = request_to(route, accounts)
    problem = problem_of(client.post(path, json=body, headers=headers), 400, "idempotency_key_required")
    assert fields_of(problem) == ["idempotency_key"]


@pytest.mark.parametrize("route", ["credit", "debit", "transfer"])
def test_a_retry_answers_200_with_the_first_outcome(
    client: httpx.Client, accounts: tuple[int, int], route: str
) -> None:
    path, body = request_to(route, accounts)
    key = new_key()
    first = client.post(path, json=body, headers=key)
    assert first.status_code == 201
    assert transfer(client, accounts[1], accounts[0], 1).status_code == 201  # the balances are others by now
    balances = [balance_of(client, account_id) for account_id in accounts]
    for _ in range(2):
        retry = client.post(path, json=body, headers=key)
        assert retry.status_code == 200
        assert retry.headers["Idempotent-Replayed"] == "true"
        assert retry.headers["Location"] == first.headers["Location"]
        assert retry.json() == {**first.json(), "replayed": True}
    assert [balance_of(client, account_id) for account_id in accounts] == balances


def test_a_retry_of_a_rejection_is_the_same_problem_even_when_funds_have_come(client: httpx.Client) -> None:
    debited, credited = open_account(client, balance_minor=10), open_account(client)
    key = new_key()
    first = transfer(client, debited, credited, 11, **key)
    problem = problem_of(first, 422, "insufficient_funds")
    assert "Idempotent-Replayed" not in first.headers
    client.post(f"/v1/accounts/{debited}/credit", json={"amount_minor": 100}, headers=new_key())
    retry = transfer(client, debited, credited, 11, **key)
    replayed = problem_of(retry, 422, "insufficient_funds")
    assert retry.headers["Idempotent-Replayed"] == "true"
    assert {**replayed, "request_id": None} == {**problem, "request_id": None}
    assert balance_of(client, debited) == 110


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"amount_minor": 2}, "amount_minor"),
        ({"description": "other"}, "description"),
        ({"external_id": "other"}, "external_id"),
        ({"metadata": {"other": 1}}, "metadata"),
    ],
)
def test_a_key_stays_with_its_payload(
    client: httpx.Client, accounts: tuple[int, int], other: dict[str, Any], field: str
) -> None:
    path, body = request_to("transfer", accounts)
    key = new_key()
    first = client.post(path, json=body, headers=key)
    assert first.status_code == 201
    balances = [balance_of(client, account_id) for account_id in accounts]
    problem = problem_of(client.post(path, json={**body, **other}, headers=key), 422, "idempotency_key_reused")
    assert fields_of(problem) == [field]
    assert problem["transaction_id"] == first.json()["transaction_id"]
    assert [balance_of(client, account_id) for account_id in accounts] == balances


def test_a_key_stays_with_its_accounts_and_its_route(client: httpx.Client, accounts: tuple[int, int]) -> None:
    debited, credited = accounts
    key = new_key()
    assert transfer(client, debited, credited, 1, **key).status_code == 201
    problem_of(transfer(client, credited, debited, 1, **key), 422, "idempotency_key_reused")
    body = {"amount_minor": 1, "beneficiary_account_id": credited}
    other_route = client.post(f"/v1/accounts/{debited}/debit", json=body, headers=key)
    assert fields_of(problem_of(other_route, 422, "idempotency_key_reused")) == ["transaction_type"]


def test_equal_metadata_in_another_order_is_the_same_payload(client: httpx.Client) -> None:
    path = f"/v1/accounts/{open_account(client)}/credit"
    key = new_key()
    first = client.post(path, json={"amount_minor": 1, "metadata": {"a": 1, "b": 2}}, headers=key)
    retry = client.post(path, json={"metadata": {"b": 2, "a": 1}, "amount_minor": 1}, headers=key)
    assert (first.status_code, retry.status_code) == (201, 200)


def test_a_key_raced_by_many_requests_posts_once(client: httpx.Client, database: Connection) -> None:
    debited, credited = open_account(client, balance_minor=100), open_account(client)
    key = new_key()
    with ThreadPoolExecutor(RACERS) as threads:
        answers = list(threads.map(lambda _: transfer(client, debited, credited, 10, **key), range(RACERS)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: RACERS - 1}
    assert Counter(answer.headers.get("Idempotent-Replayed") for answer in answers) == {None: 1, "true": RACERS - 1}
    assert len({answer.json()["transaction_id"] for answer in answers}) == 1
    assert (balance_of(client, debited), balance_of(client, credited)) == (90, 10)
    query = "select count(*) from bank.transaction where idempotency_key = %s"
    assert database.execute(query, [key["Idempotency-Key"]]).fetchone() == {"count": 1}


def test_ledgers_do_not_share_keys(client: httpx.Client, other_client: httpx.Client) -> None:
    key = new_key()
    for each in (client, other_client):
        path = f"/v1/accounts/{open_account(each)}/credit"
        assert each.post(path, json={"amount_minor": 1}, headers=key).status_code == 201


@pytest.fixture
def accounts(client: httpx.Client) -> tuple[int, int]:
    """Two accounts with money."""
    return open_account(client, balance_minor=100), open_account(client, balance_minor=100)


@pytest.fixture
def nothing_is_posted_after(accounts: tuple[int, int], request: pytest.FixtureRequest) -> None:
    """Compare from when the accounts are funded."""
    request.getfixturevalue("nothing_is_posted")


def request_to(route: str, accounts: tuple[int, int]) -> tuple[str, dict[str, Any]]:
    """Return the path and a valid body of a posting between these accounts."""
    if route == "transfer":
        return "/v1/transfers", {"debit_account_id": accounts[0], "credit_account_id": accounts[1], "amount_minor": 1}
    return f"/v1/accounts/{accounts[0]}/{route}", {"amount_minor": 1}
