"""Credit, debit and transfer: what they move, and what they answer."""

import httpx
import pytest

from tests.conftest import Connection
from tests.http.conftest import balance_of, new_key, open_account, problem_of, transfer


def test_a_credit_brings_money_in(client: httpx.Client) -> None:
    account_id = open_account(client)
    body = {"amount_minor": 700, "description": "Salary", "external_id": "s-1", "metadata": {"month": 11}}
    key = new_key()
    answer = client.post(f"/v1/accounts/{account_id}/credit", json=body, headers=key)
    assert answer.status_code == 201
    assert "Idempotent-Replayed" not in answer.headers
    posting = answer.json()
    assert {name: posting[name] for name in body} == body
    assert posting["transaction_type"] == "credit"
    assert posting["transaction_status"] == "success"
    assert posting["failure_code"] is None
    assert posting["credit_account_id"] == account_id
    assert posting["credit_balance_after_minor"] == 700
    assert posting["credit_version"] == 1
    assert posting["idempotency_key"] == key["Idempotency-Key"]
    assert posting["replayed"] is False
    assert answer.headers["Location"] == f"/v1/transactions/{posting['transaction_id']}"
    assert balance_of(client, account_id) == 700


def test_a_debit_takes_money_out(client: httpx.Client) -> None:
    account_id = open_account(client, balance_minor=700)
    answer = client.post(f"/v1/accounts/{account_id}/debit", json={"amount_minor": 300}, headers=new_key())
    assert answer.status_code == 201
    assert answer.json()["debit_balance_after_minor"] == 400
    assert balance_of(client, account_id) == 400


def test_a_debit_with_a_beneficiary_pays_the_beneficiary(client: httpx.Client) -> None:
    payer, beneficiary = open_account(client, balance_minor=700), open_account(client)
    body = {"amount_minor": 300, "beneficiary_account_id": beneficiary}
    answer = client.post(f"/v1/accounts/{payer}/debit", json=body, headers=new_key())
    assert answer.status_code == 201
    assert answer.json()["transaction_type"] == "debit"
    assert (balance_of(client, payer), balance_of(client, beneficiary)) == (400, 300)


def test_a_transfer_moves_money_between_accounts(client: httpx.Client) -> None:
    debited, credited = open_account(client, balance_minor=700), open_account(client)
    answer = transfer(client, debited, credited, 700)
    assert answer.status_code == 201
    posting = answer.json()
    assert (posting["debit_balance_after_minor"], posting["credit_balance_after_minor"]) == (0, 700)
    assert (balance_of(client, debited), balance_of(client, credited)) == (0, 700)


def test_the_largest_amount_is_exact(client: httpx.Client) -> None:
    account_id = open_account(client, "XAF")
    answer = client.post(f"/v1/accounts/{account_id}/credit", json={"amount_minor": 2**53 - 1}, headers=new_key())
    assert answer.status_code == 201
    assert balance_of(client, account_id) == 2**53 - 1
    again = client.post(f"/v1/accounts/{account_id}/credit", json={"amount_minor": 1}, headers=new_key())
    problem_of(again, 422, "balance_overflow")
    assert balance_of(client, account_id) == 2**53 - 1


def test_a_rejection_for_funds_says_what_is_needed_and_available_and_is_recorded(client: httpx.Client) -> None:
    debited, credited = open_account(client, balance_minor=700, overdraft_limit_minor=100), open_account(client)
    problem = problem_of(transfer(client, debited, credited, 801), 422, "insufficient_funds")
    assert problem["account_id"] == debited
    assert problem["needed_minor"] == 801
    assert problem["available_minor"] == 800
    recorded = client.get(f"/v1/transactions/{problem['transaction_id']}").json()
    assert recorded["transaction_status"] == "failure"
    assert recorded["failure_code"] == "insufficient_funds"
    assert recorded["failure_detail"] == {"account_id": debited, "needed_minor": 801, "available_minor": 800}
    assert (balance_of(client, debited), balance_of(client, credited)) == (700, 0)


def test_a_transfer_to_the_same_account_is_rejected(client: httpx.Client) -> None:
    account_id = open_account(client, balance_minor=700)
    problem = problem_of(transfer(client, account_id, account_id, 1), 422, "same_account")
    assert problem["account_id"] == account_id
    assert problem["transaction_id"]


def test_a_transfer_between_currencies_is_rejected(client: httpx.Client) -> None:
    debited, credited = open_account(client, balance_minor=700), open_account(client, "USD")
    problem = problem_of(transfer(client, debited, credited, 1), 422, "currency_mismatch")
    assert (problem["debit_currency"], problem["credit_currency"]) == ("EUR", "USD")


@pytest.mark.parametrize("status", ["frozen", "closed"])
def test_an_account_that_is_not_open_takes_no_postings(client: httpx.Client, database: Connection, status: str) -> None:
    account_id = open_account(client, balance_minor=700)
    database.execute("update bank.account set account_status = %s where account_id = %s", [status, account_id])
    for direction in ("credit", "debit"):
        answer = client.post(f"/v1/accounts/{account_id}/{direction}", json={"amount_minor": 1}, headers=new_key())
        problem = problem_of(answer, 409, f"account_{status}")
        assert problem["account_id"] == account_id
        assert problem["transaction_id"]
    assert balance_of(client, account_id) == 700
