"""Holds over HTTP: money is reserved, then captured, given up, or free again at its deadline."""

from typing import Any

import httpx
import pytest

from tests.conftest import Connection
from tests.http.conftest import assert_replays, balance_of, fields_of, new_key, open_account, post, posted, problem_of


def authorise(client: httpx.Client, account_id: int, amount_minor: int, **members: Any) -> int:
    """Return the id of a new hold."""
    answer = post(client, "/v1/holds", {"account_id": account_id, "amount_minor": amount_minor, **members})
    hold_id: int = posted(answer)["transaction_id"]
    assert answer.headers["Location"] == f"/v1/holds/{hold_id}"
    return hold_id


def hold_of(client: httpx.Client, hold_id: int) -> dict[str, Any]:
    answer = client.get(f"/v1/holds/{hold_id}")
    assert answer.status_code == 200, answer.text
    hold: dict[str, Any] = answer.json()
    return hold


def available(client: httpx.Client, account_id: int) -> int:
    balance_minor: int = client.get(f"/v1/accounts/{account_id}/balance").json()["available_balance_minor"]
    return balance_minor


def test_held_money_is_there_but_not_available(client: httpx.Client) -> None:
    ada = open_account(client, balance_minor=100)
    hold_id = authorise(client, ada, 60, description="Hotel", metadata={"room": 7})
    assert (balance_of(client, ada), available(client, ada)) == (100, 40)
    hold = hold_of(client, hold_id)
    assert (hold["hold_status"], hold["amount_minor"], hold["held_minor"], hold["captured_minor"]) == (
        "open",
        60,
        60,
        0,
    )
    assert (hold["description"], hold["metadata"], hold["expires_at"]) == ("Hotel", {"room": 7}, None)
    body = {"account_id": ada, "amount_minor": 41}
    problem = problem_of(post(client, "/v1/holds", body), 422, "insufficient_funds")
    assert (problem["needed_minor"], problem["available_minor"]) == (41, 40)
    assert client.get(f"/v1/transactions/{hold_id}").json()["transaction_type"] == "hold"


def test_a_hold_is_captured_in_parts_until_a_final_one_frees_the_rest(client: httpx.Client) -> None:
    ada, shop = open_account(client, balance_minor=100), open_account(client)
    hold_id = authorise(client, ada, 60, beneficiary_account_id=shop)
    part = posted(post(client, f"/v1/holds/{hold_id}/capture", {"amount_minor": 25}))
    assert (part["transaction_type"], part["amount_minor"], part["original_transaction_id"]) == ("capture", 25, hold_id)
    assert (balance_of(client, ada), balance_of(client, shop), available(client, ada)) == (75, 25, 40)
    posted(post(client, f"/v1/holds/{hold_id}/capture", {"amount_minor": 5, "final": True}))
    assert (balance_of(client, ada), balance_of(client, shop), available(client, ada)) == (70, 30, 70)
    hold = hold_of(client, hold_id)
    assert (hold["hold_status"], hold["captured_minor"], hold["held_minor"]) == ("captured", 30, 0)
    problem = problem_of(post(client, f"/v1/holds/{hold_id}/capture", {}), 409, "hold_not_open")
    assert (problem["hold_id"], problem["hold_status"]) == (hold_id, "captured")


def test_without_an_amount_all_that_is_left_is_captured(client: httpx.Client) -> None:
    ada, shop = open_account(client, balance_minor=100), open_account(client)
    hold_id = authorise(client, ada, 60, beneficiary_account_id=shop)
    posted(post(client, f"/v1/holds/{hold_id}/capture", {"amount_minor": 25}))
    assert posted(post(client, f"/v1/holds/{hold_id}/capture", {}))["amount_minor"] == 35
    assert balance_of(client, shop) == 60


def test_more_than_is_held_is_captured_within_the_tolerance_alone(client: httpx.Client) -> None:
    ada = open_account(client, balance_minor=100)
    hold_id = authorise(client, ada, 60, tolerance_minor=6)
    path = f"/v1/holds/{hold_id}/capture"
    problem = problem_of(post(client, path, {"amount_minor": 67}), 422, "capture_exceeds_hold")
    assert (problem["left_minor"], problem["tolerance_minor"]) == (60, 6)
    assert hold_of(client, hold_id)["hold_status"] == "open"
    posted(post(client, path, {"amount_minor": 66}))
    assert (balance_of(client, ada), available(client, ada)) == (34, 34)


def test_a_hold_that_is_given_up_frees_the_money_once(client: httpx.Client) -> None:
    ada = open_account(client, balance_minor=100)
    hold_id = authorise(client, ada, 60)
    assert posted(post(client, f"/v1/holds/{hold_id}/void", {}))["transaction_type"] == "void"
    assert (hold_of(client, hold_id)["hold_status"], available(client, ada)) == ("voided", 100)
    for action in ("void", "capture"):
        problem = problem_of(post(client, f"/v1/holds/{hold_id}/{action}", {}), 409, "hold_not_open")
        assert problem["hold_status"] == "voided"
    assert available(client, ada) == 100


def test_an_expired_hold_no_longer_counts_and_is_not_captured(client: httpx.Client, database: Connection) -> None:
    ada = open_account(client, balance_minor=100)
    hold_id = authorise(client, ada, 60, expires_at="2090-01-01T02:00:00+02:00")
    assert hold_of(client, hold_id)["expires_at"] == "2090-01-01T00:00:00Z"
    query = "update bank.hold set expires_at = clock_timestamp() where hold_id = %s"
    database.execute(query, [hold_id])
    assert (hold_of(client, hold_id)["hold_status"], available(client, ada)) == ("expired", 100)
    problem = problem_of(post(client, f"/v1/holds/{hold_id}/capture", {}), 409, "hold_not_open")
    assert problem["hold_status"] == "expired"


def test_holds_captures_and_voids_replay(client: httpx.Client) -> None:
    ada = open_account(client, balance_minor=100)
    body = {"account_id": ada, "amount_minor": 30, "tolerance_minor": 3, "expires_at": "2090-01-01T00:00:00Z"}
    hold_id = assert_replays(client, "/v1/holds", body)["transaction_id"]
    assert_replays(client, f"/v1/holds/{hold_id}/capture", {"amount_minor": 10})
    assert_replays(client, f"/v1/holds/{hold_id}/capture", {})
    voided = authorise(client, ada, 30)
    assert_replays(client, f"/v1/holds/{voided}/void", {})
    assert (balance_of(client, ada), available(client, ada)) == (70, 70)


@pytest.mark.parametrize(
    ("other", "field"), [({"tolerance_minor": 4}, "tolerance_minor"), ({"expires_at": None}, "expires_at")]
)
def test_a_key_stays_with_all_of_a_hold(client: httpx.Client, other: dict[str, Any], field: str) -> None:
    body = {"amount_minor": 30, "tolerance_minor": 3, "expires_at": "2090-01-01T00:00:00Z"}
    body |= {"account_id": open_account(client, balance_minor=100)}
    key = new_key()
    posted(post(client, "/v1/holds", body, **key))
    problem = problem_of(post(client, "/v1/holds", {**body, **other}, **key), 422, "idempotency_key_reused")
    assert fields_of(problem) == [field]


def test_a_hold_on_a_frozen_account_is_not_captured_but_given_up(client: httpx.Client) -> None:
    ada = open_account(client, balance_minor=100)
    hold_id = authorise(client, ada, 60)
    client.post(f"/v1/accounts/{ada}/freeze", json={})
    problem_of(post(client, f"/v1/holds/{hold_id}/capture", {}), 409, "account_frozen")
    posted(post(client, f"/v1/holds/{hold_id}/void", {}))
    assert available(client, ada) == 100


def test_a_ledger_does_not_see_the_holds_of_another(client: httpx.Client, other_client: httpx.Client) -> None:
    hold_id = authorise(client, open_account(client, balance_minor=100), 60)
    problem_of(other_client.get(f"/v1/holds/{hold_id}"), 404, "hold_not_found")
    for action in ("capture", "void"):
        problem_of(post(other_client, f"/v1/holds/{hold_id}/{action}", {}), 404, "hold_not_found")


def test_a_transaction_that_is_no_hold_is_not_found_as_one(client: httpx.Client) -> None:
    credit = post(client, f"/v1/accounts/{open_account(client)}/credit", {"amount_minor": 1}).json()
    problem_of(client.get(f"/v1/holds/{credit['transaction_id']}"), 404, "hold_not_found")
    problem_of(post(client, f"/v1/holds/{credit['transaction_id']}/void", {}), 404, "hold_not_found")
