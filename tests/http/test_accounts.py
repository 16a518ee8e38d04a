"""Opening accounts and reading them."""

import uuid
from typing import Any

import httpx
import pytest

from tests.conftest import Connection
from tests.http.conftest import fields_of, new_key, open_account, problem_of

OUTCOME = {"replayed": False, "failure_code": None, "failure_detail": None}


def post_batch(client: httpx.Client, accounts: Any, key: str = "") -> httpx.Response:
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    return client.post("/v1/accounts/batch", json={"accounts": accounts}, headers=headers)


def opening(holder_name: str = "Ada", **members: Any) -> dict[str, Any]:
    return {"holder_name": holder_name, "currency": "EUR", **members}


def test_an_account_is_opened_and_can_be_read_at_its_location(client: httpx.Client) -> None:
    body = {
        "holder_name": "Zoë 李 🏦",
        "currency": "EUR",
        "overdraft_limit_minor": 500,
        "external_id": new_key()["Idempotency-Key"],
        "metadata": {"branch": "Ω", "big": 9007199254740993},
        "account_type": "equity",
    }
    opened = client.post("/v1/accounts", json=body, headers=new_key())
    assert opened.status_code == 201
    account = opened.json()
    assert {name: account[name] for name in body} == body
    assert account["balance_minor"] == 0
    assert account["available_balance_minor"] == 500
    assert opened.headers["Location"] == f"/v1/accounts/{account['account_id']}"
    read = client.get(opened.headers["Location"])
    assert read.status_code == 200
    assert {**read.json(), **OUTCOME} == account


def test_a_retry_opens_nothing_and_answers_with_the_account_as_it_is_now(client: httpx.Client) -> None:
    key, body = new_key(), opening(external_id=uuid.uuid4().hex)
    opened = client.post("/v1/accounts", json=body, headers=key)
    path = opened.headers["Location"]
    client.post(f"{path}/credit", json={"amount_minor": 5}, headers=new_key())
    retry = client.post("/v1/accounts", json=body, headers=key)
    assert (opened.status_code, retry.status_code) == (201, 200)
    assert "Idempotent-Replayed" not in opened.headers
    assert retry.headers["Idempotent-Replayed"] == "true"
    assert retry.headers["Location"] == path
    assert retry.json() == {**client.get(path).json(), **OUTCOME, "replayed": True}
    assert retry.json()["balance_minor"] == 5


def test_another_request_with_the_same_key_is_refused(client: httpx.Client) -> None:
    key = new_key()
    account_id = client.post("/v1/accounts", json=opening(), headers=key).json()["account_id"]
    answer = client.post("/v1/accounts", json=opening(account_type="asset"), headers=key)
    problem = problem_of(answer, 422, "idempotency_key_reused")
    assert (fields_of(problem), problem["account_id"]) == (["account_type"], account_id)


@pytest.mark.parametrize("path", ["/v1/accounts", "/v1/accounts/batch"])
@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_nothing_is_opened(
    client: httpx.Client, database: Connection, path: str, key: str | None
) -> None:
    def accounts() -> object:
        return database.execute("select count(*) from bank.account").fetchone()

    before = accounts()
    body = {"accounts": [opening()]} if path.endswith("batch") else opening()
    answer = client.post(path, json=body, headers={} if key is None else {"Idempotency-Key": key})
    assert fields_of(problem_of(answer, 400, "idempotency_key_required")) == ["idempotency_key"]
    assert accounts() == before


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
    problem = problem_of(client.post("/v1/accounts", json=body, headers=new_key()), 409, "external_id_taken")
    assert problem["account_id"] == account_id
    assert fields_of(problem) == ["external_id"]


def test_an_account_that_does_not_exist_is_not_found(client: httpx.Client) -> None:
    for path in ("", "/balance", "/entries"):
        problem = problem_of(client.get(f"/v1/accounts/999999999{path}"), 404, "account_not_found")
        assert fields_of(problem) == ["account_id"]


# ---- many in one request ------------------------------------------------------------------------------------


def test_each_account_has_its_outcome_in_order(client: httpx.Client) -> None:
    taken, key = uuid.uuid4().hex, uuid.uuid4().hex
    account_id = open_account(client, external_id=taken)
    batch = [
        opening("Zoë 李 🏦", metadata={"a": '"\\'}, account_type="asset", overdraft_limit_minor=None),
        opening(" "),
        opening(currency="XQQ"),
        opening(external_id=taken),
        opening("Bob", idempotency_key=uuid.uuid4().hex),
    ]
    answer = post_batch(client, batch, key)
    assert answer.status_code == 200
    rows = answer.json()["accounts"]
    codes = [None, "invalid_argument", "unknown_currency", "external_id_taken", None]
    assert [row["failure_code"] for row in rows] == codes
    assert {name: rows[0][name] for name in batch[0]} == batch[0]
    assert client.get(f"/v1/accounts/{rows[0]['account_id']}").json()["holder_name"] == "Zoë 李 🏦"
    assert rows[1]["failure_detail"]["field"] == "holder_name"
    assert (rows[3]["account_id"], rows[3]["failure_detail"]["account_id"]) == (None, account_id)
    again = post_batch(client, batch, key).json()["accounts"]
    assert again == [{**row, "replayed": row["account_id"] is not None} for row in rows]


def test_a_thousand_accounts_are_opened_in_one_request(client: httpx.Client) -> None:
    rows = post_batch(client, [opening(f"Holder {n}") for n in range(1000)]).json()["accounts"]
    assert [row["holder_name"] for row in rows] == [f"Holder {n}" for n in range(1000)]
    assert len({row["account_id"] for row in rows}) == 1000


def test_an_account_without_a_key_has_that_of_the_request_and_its_number(client: httpx.Client) -> None:
    key = uuid.uuid4().hex
    rows = post_batch(client, [opening(), opening()], key).json()["accounts"]
    second = client.post("/v1/accounts", json=opening(), headers={"Idempotency-Key": f"{key}:2"})
    assert (second.status_code, second.json()["account_id"]) == (200, rows[1]["account_id"])


def test_an_empty_key_of_an_account_is_not_an_absent_one(client: httpx.Client) -> None:
    rows = post_batch(client, [opening(idempotency_key=""), opening()]).json()["accounts"]
    assert [row["failure_code"] for row in rows] == ["invalid_argument", None]
    assert rows[0]["failure_detail"] == {"field": "idempotency_key", "reason": "is blank"}


def test_a_key_that_another_account_has_by_its_number_is_refused(client: httpx.Client) -> None:
    key = uuid.uuid4().hex
    problem = problem_of(
        post_batch(client, [opening(), opening(idempotency_key=f"{key}:1")], key), 400, "invalid_request"
    )
    assert fields_of(problem) == ["accounts[1].idempotency_key"]
    rows = post_batch(client, [opening(idempotency_key=f"{key}:2"), opening(idempotency_key=f"{key}:1")], key)
    assert [row["failure_code"] for row in rows.json()["accounts"]] == [None, None]


@pytest.mark.parametrize(
    ("accounts", "field"),
    [
        ([], "accounts"),
        ("none", "accounts"),
        ([opening()] * 10_001, "accounts"),
        ([opening(), {"holder_name": "Ada"}], "accounts[1].currency"),
        ([opening(metadata={"a": 1}), opening(colour="red")], "accounts[1].colour"),
        ([opening(metadata={"a": 1}), opening(overdraft_limit_minor=-1)], "accounts[1].overdraft_limit_minor"),
        ([opening(), opening(metadata=[])], "accounts[1].metadata"),
        ([opening(), opening(metadata={"a": "\0"})], "accounts[1].metadata"),
        ([opening(external_id="\0")], "accounts[0].external_id"),
    ],
)
def test_a_malformed_batch_is_refused_whole(
    client: httpx.Client, database: Connection, accounts: Any, field: str
) -> None:
    before = database.execute("select count(*) from bank.account").fetchone()
    problem = problem_of(post_batch(client, accounts), 400, "invalid_request")
    assert fields_of(problem) == [field]
    assert database.execute("select count(*) from bank.account").fetchone() == before
