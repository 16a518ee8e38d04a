"""An account's life and limits over HTTP: what is stopped, who may, and what is remembered of it."""

import base64
from typing import Any

import httpx
import pytest

from service import keys
from service.owner import call, connect
from tests.http.conftest import (
    Service,
    balance_of,
    fields_of,
    open_account,
    post,
    posted,
    problem_of,
    transfer,
)


def change(client: httpx.Client, account_id: int, action: str, **members: Any) -> dict[str, Any]:
    """Freeze, unfreeze, close or reopen; return the account as it is then."""
    answer = client.post(f"/v1/accounts/{account_id}/{action}", json=members)
    assert answer.status_code == 200, answer.text
    account: dict[str, Any] = answer.json()
    assert account == client.get(f"/v1/accounts/{account_id}").json()
    return account


def set_limit(client: httpx.Client, account_id: int, kind: str, **members: Any) -> httpx.Response:
    return client.put(f"/v1/accounts/{account_id}/limits/{kind}", json=members)


def changes_of(client: httpx.Client, account_id: int) -> list[dict[str, Any]]:
    changes: list[dict[str, Any]] = client.get(f"/v1/accounts/{account_id}/changes").json()["changes"]
    return changes


@pytest.mark.parametrize(
    ("stopped", "status", "debit_code", "credit_code"),
    [
        ({}, "frozen", "account_frozen", "account_frozen"),
        ({"credits": False}, "debits_frozen", "account_frozen", None),
        ({"debits": False}, "credits_frozen", None, "account_frozen"),
    ],
)
def test_a_freeze_stops_debits_credits_or_both_until_it_is_lifted(
    client: httpx.Client, stopped: dict[str, bool], status: str, debit_code: str | None, credit_code: str | None
) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client, balance_minor=100)
    assert change(client, ada, "freeze", **stopped)["account_status"] == status
    for sides, code in (((ada, bob), debit_code), ((bob, ada), credit_code)):
        answer = transfer(client, *sides, 10)
        if code is None:
            posted(answer)
        else:
            assert problem_of(answer, 409, code)["account_id"] == ada
    assert change(client, ada, "unfreeze")["account_status"] == "open"
    posted(transfer(client, ada, bob, 1))


def test_an_account_is_closed_when_it_is_empty_and_reopened(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    problem = problem_of(client.post(f"/v1/accounts/{ada}/close", json={}), 409, "account_not_empty")
    assert (problem["account_id"], problem["balance_minor"], problem["held_minor"]) == (ada, 100, 0)
    posted(transfer(client, ada, bob, 100))
    assert change(client, ada, "close")["account_status"] == "closed"
    assert problem_of(transfer(client, bob, ada, 1), 409, "account_closed")["account_id"] == ada
    for action in ("freeze", "unfreeze"):
        problem = problem_of(client.post(f"/v1/accounts/{ada}/{action}", json={}), 409, "account_state")
        assert problem["account_status"] == "closed"
    assert change(client, ada, "reopen")["account_status"] == "open"
    posted(transfer(client, bob, ada, 1))


def test_changes_tell_who_when_from_and_to_newest_first(client: httpx.Client, service: Service) -> None:
    ada = open_account(client)
    key = keys.make()
    with connect(service.bank.owner_url) as owner:
        call(owner, "create_api_key", name="Carla", key_digest=keys.digest(key), scopes=["accounts:write"])
    with service.http.client(key) as carla:
        carla.post(f"/v1/accounts/{ada}/freeze", json={"reason": "card lost"})
        assert set_limit(carla, ada, "day", amount_max_minor=500, count_max=3, reason="asked for it").status_code == 200
    change(client, ada, "unfreeze")
    last, limit, first = changes_of(client, ada)
    assert [each["change_number"] for each in (first, limit, last)] == [1, 2, 3]
    assert (first["changed_by"], first["change_type"], first["reason"]) == ("Carla", "freeze", "card lost")
    assert (first["before"], first["after"]) == ({"account_status": "open"}, {"account_status": "frozen"})
    assert (limit["changed_by"], limit["change_type"], limit["reason"]) == ("Carla", "day_limit", "asked for it")
    assert (limit["before"], limit["after"]) == ({}, {"amount_max_minor": 500, "count_max": 3})
    assert (last["changed_by"], last["reason"]) == ("tests", None)
    assert first["changed_at"].endswith("Z")
    assert first["changed_at"] <= last["changed_at"]


@pytest.mark.parametrize("path", ["freeze", "unfreeze", "close", "reopen", "limits/day"])
def test_nobody_says_in_a_body_who_they_are(client: httpx.Client, path: str) -> None:
    method = "PUT" if path.startswith("limits") else "POST"
    answer = client.request(method, f"/v1/accounts/{open_account(client)}/{path}", json={"changed_by": "Somebody"})
    assert fields_of(problem_of(answer, 400, "invalid_request")) == ["changed_by"]


def test_a_change_that_changes_nothing_is_not_noted(client: httpx.Client) -> None:
    ada = open_account(client)
    for _ in range(2):
        change(client, ada, "freeze")
    assert len(changes_of(client, ada)) == 1


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (6, [5])])
def test_changes_come_in_pages(client: httpx.Client, limit: int, sizes: list[int]) -> None:
    ada = open_account(client)
    for number in range(5):
        change(client, ada, "unfreeze" if number % 2 else "freeze")
    pages: list[list[int]] = []
    parameters: dict[str, Any] = {"limit": limit}
    while True:
        page = client.get(f"/v1/accounts/{ada}/changes", params=parameters).json()
        pages.append([each["change_number"] for each in page["changes"]])
        if page["next_cursor"] is None:
            break
        parameters["cursor"] = page["next_cursor"]
    assert [len(page) for page in pages] == sizes
    assert sum(pages, []) == [5, 4, 3, 2, 1]  # noqa: RUF017 - a few


def test_an_account_without_changes_has_an_empty_page(client: httpx.Client) -> None:
    answer = client.get(f"/v1/accounts/{open_account(client)}/changes")
    assert answer.json() == {"changes": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *(
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=x", "limit"),
            ("cursor=", "cursor"),
            ("cursor=c3", "cursor"),
        ),
        *(("unknown=1", "unknown"), ("limit=1&limit=2", "limit")),
        (f"cursor={base64.urlsafe_b64encode(b'v3').decode()}", "cursor"),  # of a statement
    ],
)
def test_changes_have_one_limit_and_a_cursor_that_a_page_of_changes_gave(
    client: httpx.Client, query: str, field: str
) -> None:
    answer = client.get(f"/v1/accounts/{open_account(client)}/changes?{query}")
    assert fields_of(problem_of(answer, 400, "invalid_request")) == [field]


@pytest.mark.parametrize(
    ("kind", "limit", "code", "facts"),
    [
        ("minimum_balance", {"amount_max_minor": 95}, "balance_below_minimum", {"limit_minor": 95}),
        ("transaction", {"amount_max_minor": 9}, "transaction_limit_exceeded", {"limit_minor": 9}),
        ("day", {"amount_max_minor": 9}, "day_amount_exceeded", {"limit_minor": 9, "used_minor": 0}),
        ("week", {"count_max": 0}, "week_count_exceeded", {"limit_count": 0, "used_count": 0}),
        ("month", {"amount_max_minor": 9, "count_max": 5}, "month_amount_exceeded", {"limit_minor": 9}),
    ],
)
def test_a_debit_past_a_limit_is_rejected_until_the_limit_is_taken_away(
    client: httpx.Client, kind: str, limit: dict[str, int], code: str, facts: dict[str, int]
) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    assert set_limit(client, ada, kind, **limit).status_code == 200
    problem = problem_of(transfer(client, ada, bob, 10), 422, code)
    assert {name: problem[name] for name in facts} == facts
    assert problem["account_id"] == ada
    assert set_limit(client, ada, kind).status_code == 200
    assert client.get(f"/v1/accounts/{ada}/limits").json() == {"limits": []}
    posted(transfer(client, ada, bob, 10))


def test_a_credit_past_the_maximum_balance_is_rejected(client: httpx.Client) -> None:
    ada = open_account(client, balance_minor=100)
    assert set_limit(client, ada, "maximum_balance", amount_max_minor=110).status_code == 200
    problem = problem_of(post(client, f"/v1/accounts/{ada}/credit", {"amount_minor": 11}), 422, "balance_above_maximum")
    assert problem["limit_minor"] == 110


def test_the_overdraft_limit_is_a_limit_like_the_others(client: httpx.Client) -> None:
    ada, bob = open_account(client), open_account(client)
    answer = set_limit(client, ada, "overdraft", amount_max_minor=50)
    assert (answer.status_code, answer.json()["available_balance_minor"]) == (200, 50)
    posted(transfer(client, ada, bob, 40))
    problem = problem_of(set_limit(client, ada, "overdraft", amount_max_minor=39), 409, "limit_passed_already")
    assert problem["balance_minor"] == -40
    assert set_limit(client, ada, "overdraft").json()["overdraft_limit_minor"] is None
    assert balance_of(client, ada) == -40


def test_limits_tell_what_is_used_of_them(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    set_limit(client, ada, "day", amount_max_minor=50, count_max=3)
    set_limit(client, ada, "transaction", amount_max_minor=40)
    posted(transfer(client, ada, bob, 30))
    limits = client.get(f"/v1/accounts/{ada}/limits").json()["limits"]
    assert [limit["limit_kind"] for limit in limits] == ["transaction", "day"]
    day = limits[1]
    assert (day["amount_max_minor"], day["count_max"], day["used_minor"], day["used_count"]) == (50, 3, 30, 1)
    assert day["window_started_at"].endswith("T00:00:00Z")
    problem = problem_of(transfer(client, ada, bob, 21), 422, "day_amount_exceeded")
    assert (problem["limit_minor"], problem["used_minor"]) == (50, 30)


def test_a_ledger_does_not_change_the_accounts_of_another(client: httpx.Client, other_client: httpx.Client) -> None:
    ada = open_account(client)
    for action in ("freeze", "unfreeze", "close", "reopen"):
        problem_of(other_client.post(f"/v1/accounts/{ada}/{action}", json={}), 404, "account_not_found")
    problem_of(set_limit(other_client, ada, "day", count_max=1), 404, "account_not_found")
    for path in ("limits", "changes"):
        problem_of(other_client.get(f"/v1/accounts/{ada}/{path}"), 404, "account_not_found")
    assert changes_of(client, ada) == []
