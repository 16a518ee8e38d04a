"""Looking transactions up by id and by idempotency key."""

import httpx

from tests.http.conftest import fields_of, new_key, open_account, problem_of, transfer


def test_a_lookup_answers_what_the_posting_answered(client: httpx.Client) -> None:
    debited, credited = open_account(client, balance_minor=700), open_account(client)
    posting = transfer(client, debited, credited, 500).json()
    by_id = client.get(f"/v1/transactions/{posting['transaction_id']}")
    by_key = client.get("/v1/transactions", params={"idempotency_key": posting["idempotency_key"]})
    assert by_id.status_code == by_key.status_code == 200
    assert by_id.json() == by_key.json() == posting


def test_a_key_is_found_with_every_character_that_a_header_takes(client: httpx.Client) -> None:
    account_id = open_account(client)
    key = new_key()["Idempotency-Key"] + " ~!\"#$%&'()*+,-./:;<=>?@[]^_`{|}\\"
    posting = client.post(
        f"/v1/accounts/{account_id}/credit", json={"amount_minor": 1}, headers={"Idempotency-Key": key}
    )
    assert posting.status_code == 201
    found = client.get("/v1/transactions", params={"idempotency_key": key})
    assert found.json() == posting.json()


def test_a_transaction_that_does_not_exist_is_not_found(client: httpx.Client) -> None:
    by_id = problem_of(client.get("/v1/transactions/999999999"), 404, "transaction_not_found")
    assert fields_of(by_id) == ["transaction_id"]
    by_key = client.get("/v1/transactions", params={"idempotency_key": "never used"})
    assert fields_of(problem_of(by_key, 404, "transaction_not_found")) == ["idempotency_key"]


def test_a_refused_request_leaves_its_key_unused(client: httpx.Client) -> None:
    account_id = open_account(client)
    key = new_key()
    refused = client.post(f"/v1/accounts/{account_id}/credit", json={"amount_minor": 0}, headers=key)
    assert refused.status_code == 400
    posted = client.post(f"/v1/accounts/{account_id}/credit", json={"amount_minor": 5}, headers=key)
    assert posted.status_code == 201
