"""Many transfers in one request: outcomes in order, all or none, keys."""

import uuid
from typing import Any

import httpx
import pytest

from tests.http.conftest import balance_of, fields_of, open_account, problem_of


def post(
    client: httpx.Client, transfers: list[dict[str, Any]], *, key: str = "", atomic: bool = False
) -> httpx.Response:
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    return client.post("/v1/transfers/batch", json={"transfers": transfers, "atomic": atomic}, headers=headers)


def item(debit: int, credit: int, amount_minor: int, **members: Any) -> dict[str, Any]:
    return {"debit_account_id": debit, "credit_account_id": credit, "amount_minor": amount_minor, **members}


def test_each_transfer_has_its_outcome_in_order(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    answer = post(client, [item(ada, bob, 60), item(ada, bob, 60), item(ada, 10**12, 1), item(bob, ada, 5)])
    assert answer.status_code == 200
    rows = answer.json()["transfers"]
    assert [row["failure_code"] for row in rows] == [None, "insufficient_funds", "account_not_found", None]
    assert [row["transaction_id"] is None for row in rows] == [False, False, True, False]
    assert (balance_of(client, ada), balance_of(client, bob)) == (45, 55)


def test_texts_arrive_as_they_were_sent(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    texts = ['"', "\\", '\\"', "a,b", "{x}", "null", "NULL", "x\ny\tz", "'", "%s", "€ 🏦", None]
    rows = post(client, [item(ada, bob, 1, description=text) for text in texts]).json()["transfers"]
    assert [row["description"] for row in rows] == texts
    assert {row["transaction_status"] for row in rows} == {"success"}


def test_a_retry_of_the_request_posts_nothing(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    batch = [item(ada, bob, 10), item(ada, bob, 10, idempotency_key=uuid.uuid4().hex)]
    key = uuid.uuid4().hex
    first = post(client, batch, key=key).json()["transfers"]
    again = post(client, batch, key=key).json()["transfers"]
    assert again == [{**row, "replayed": True} for row in first]
    assert balance_of(client, bob) == 20


def test_an_atomic_batch_answers_with_the_error_of_the_item_that_stopped_it(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    problem = problem_of(post(client, [item(ada, bob, 60), item(ada, bob, 60)], atomic=True), 422, "insufficient_funds")
    assert (problem["stopped_by"], problem["needed_minor"], problem["available_minor"]) == (2, 60, 40)
    assert client.get(f"/v1/transactions/{problem['transaction_id']}").json()["failure_code"] == "insufficient_funds"
    assert balance_of(client, bob) == 0
    rows = post(client, [item(ada, bob, 60), item(ada, bob, 40)], atomic=True).json()["transfers"]
    assert [row["transaction_status"] for row in rows] == ["success", "success"]


@pytest.mark.parametrize(
    "transfers",
    [
        [],
        [item(1, 2, 0)],
        [item(1, 2, 3, colour="red")],
        [{"debit_account_id": 1}],
        "none",
        None,
        [item(1, 2, 3)] * 10_001,
    ],
)
@pytest.mark.usefixtures("nothing_is_posted")
def test_a_malformed_batch_is_refused_whole(client: httpx.Client, transfers: Any) -> None:
    problem = problem_of(post(client, transfers), 400, "invalid_request")
    assert problem["errors"][0]["field"].startswith("transfers")


def test_an_empty_key_of_a_transfer_is_not_an_absent_one(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    rows = post(client, [item(ada, bob, 1, idempotency_key=""), item(ada, bob, 1)]).json()["transfers"]
    assert [row["failure_code"] for row in rows] == ["invalid_argument", None]
    assert rows[0]["failure_detail"] == {"field": "idempotency_key", "reason": "is blank"}


@pytest.mark.usefixtures("nothing_is_posted")
def test_a_key_that_another_transfer_has_by_its_number_is_refused(client: httpx.Client) -> None:
    key = uuid.uuid4().hex
    batch = [item(1, 2, 3), item(1, 2, 3, idempotency_key=f"{key}:1")]
    problem = problem_of(post(client, batch, key=key), 400, "invalid_request")
    assert fields_of(problem) == ["transfers[1].idempotency_key"]
    assert problem["errors"][0]["reason"] == "is also the key that item 1 gets for having none"


def test_a_batch_needs_a_key(client: httpx.Client) -> None:
    problem_of(client.post("/v1/transfers/batch", json={"transfers": [item(1, 2, 3)]}), 400, "idempotency_key_required")


def test_the_transfers_of_a_group_are_posted_together_or_not_at_all(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    batch = [
        item(ada, bob, 10),
        *(item(ada, bob, 20, group=1), item(ada, bob, 200, group=1), item(ada, bob, 1, group=1)),
        *(item(ada, bob, 30, group=2), item(bob, ada, 5, group=2)),
        item(ada, 10**12, 1),
    ]
    key = uuid.uuid4().hex
    answer = post(client, batch, key=key)
    assert answer.status_code == 200
    rows = answer.json()["transfers"]
    codes = [None, "batch_aborted", "insufficient_funds", "batch_aborted", None, None, "account_not_found"]
    assert [row["failure_code"] for row in rows] == codes
    assert (balance_of(client, ada), balance_of(client, bob)) == (65, 35)
    assert post(client, batch, key=key).json()["transfers"][5] == {**rows[5], "replayed": True}


@pytest.mark.parametrize("group", [0, -1, 1.0, "1", True, 2**31, [], {}])
@pytest.mark.usefixtures("nothing_is_posted")
def test_the_transfer_with_a_bad_group_is_named(client: httpx.Client, group: Any) -> None:
    batch = [item(1, 2, 3, group=1), item(1, 2, 3), item(1, 2, 3, group=group), item(1, 2, 3, group=-7)]
    problem = problem_of(post(client, batch), 400, "invalid_request")
    assert fields_of(problem) == ["transfers[2].group"]


@pytest.mark.parametrize("blank", ["", " ", "\u2003"])
@pytest.mark.usefixtures("nothing_is_posted")
def test_a_blank_key_of_a_transfer_is_no_missing_one(client: httpx.Client, blank: str) -> None:
    for _ in range(2):
        [row] = post(client, [item(1, 2, 10, idempotency_key=blank)]).json()["transfers"]
        assert row["failure_code"] == "invalid_argument"
        assert row["failure_detail"] == {"field": "idempotency_key", "reason": "is blank"}
    problem = problem_of(post(client, [item(1, 2, 10, idempotency_key=blank)], atomic=True), 400, "invalid_argument")
    assert (fields_of(problem), problem["stopped_by"]) == (["idempotency_key"], 1)


def test_a_key_as_the_header_would_have_made_it_is_a_transfers_own(client: httpx.Client) -> None:
    ada, bob, key = open_account(client, balance_minor=100), open_account(client), uuid.uuid4().hex
    batch = [item(ada, bob, 1), item(ada, bob, 1, idempotency_key=f"{key}:2")]
    assert [row["replayed"] for row in post(client, batch, key=key).json()["transfers"]] == [False, False]
    del batch[1]["idempotency_key"]
    assert [row["replayed"] for row in post(client, batch, key=key).json()["transfers"]] == [True, True]
