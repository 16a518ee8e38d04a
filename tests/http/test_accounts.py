"""Opening accounts and reading them."""

import httpx

from tests.http.conftest import fields_of, new_key, open_account, problem_of


def test_an_account_is_opened_and_can_be_read_at_its_location(client: httpx.Client) -> None:
    body = {
        "holder_name": "Zoë 李 🏦",
        "currency": "EUR",
        "overdraft_limit_minor": 500,
        "external_id": new_key()["Idempotency-Key"],
        "metadata": {"branch": "Ω", "big": 9007199254740993},
    }
    opened = client.post("/v1/accounts", json=body)
    assert opened.status_code == 201
    account = opened.json()
    assert {name: account[name] for name in body} == body
    assert account["balance_minor"] == 0
    assert account["available_balance_minor"] == 500
    assert opened.headers["Location"] == f"/v1/accounts/{account['account_id']}"
    read = client.get(opened.headers["Location"])
    assert read.status_code == 200
    assert read.json() == account


def test_an_account_can_have_an_unlimited_overdraft(client: httpx.Client) -> None:
    account_id = open_account(client, overdraft_limit_minor=None)
    account = client.get(f"/v1/accounts/{account_id}").json()
    assert account["overdraft_limit_minor"] is None
    assert account["available_balance_minor"] is None


def test_a_balance_is_what_was_posted(client: httpx.Client) -> None:
    account_id = open_account(client, balance_minor=1234)
    balance = client.get(f"/v1/accounts/{account_id}/balance")
    assert balance.status_code == 200
    facts = balance.json()
    assert facts.pop("as_of").endswith("Z")
    assert facts == {
        "account_id": account_id,
        "currency": "EUR",
        "balance_minor": 1234,
        "held_minor": 0,
        "available_balance_minor": 1234,
        "version": 1,
        "ledger_id": 1,
    }


def test_an_external_id_names_one_account(client: httpx.Client) -> None:
    external_id = new_key()["Idempotency-Key"]
    account_id = open_account(client, external_id=external_id)
    body = {"holder_name": "Another", "currency": "EUR", "external_id": external_id}
    problem = problem_of(client.post("/v1/accounts", json=body), 409, "external_id_taken")
    assert problem["account_id"] == account_id
    assert fields_of(problem) == ["external_id"]


def test_an_account_that_does_not_exist_is_not_found(client: httpx.Client) -> None:
    for path in ("", "/balance", "/entries"):
        problem = problem_of(client.get(f"/v1/accounts/999999999{path}"), 404, "account_not_found")
        assert fields_of(problem) == ["account_id"]
