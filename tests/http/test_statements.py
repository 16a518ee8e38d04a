"""Statements, a page at a time."""

import base64
from typing import Any

import httpx
import pytest

from tests.conftest import Connection
from tests.http.conftest import fields_of, new_key, open_account, problem_of, transfer


@pytest.fixture(scope="module")
def account_id(client: httpx.Client) -> int:
    """An account with seven entries, the newest of which has version 7."""
    debited, credited = open_account(client, balance_minor=1000), open_account(client)
    for amount_minor in range(1, 7):
        assert transfer(client, debited, credited, amount_minor).status_code == 201
    return debited


def pages_of(client: httpx.Client, account_id: int, limit: int) -> list[list[dict[str, Any]]]:
    """Follow the cursors to the end."""
    pages = []
    parameters: dict[str, Any] = {"limit": limit}
    while True:
        answer = client.get(f"/v1/accounts/{account_id}/entries", params=parameters)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        pages.append(page["entries"])
        if page["next_cursor"] is None:
            return pages
        parameters["cursor"] = page["next_cursor"]


@pytest.mark.parametrize(
    ("limit", "sizes"), [(1, [1] * 7), (2, [2, 2, 2, 1]), (6, [6, 1]), (7, [7]), (8, [7]), (1000, [7])]
)
def test_pages_hold_each_entry_once_newest_first(
    client: httpx.Client, account_id: int, limit: int, sizes: list[int]
) -> None:
    pages = pages_of(client, account_id, limit)
    assert [len(page) for page in pages] == sizes
    entries = [entry for page in pages for entry in page]
    assert [entry["version"] for entry in entries] == [7, 6, 5, 4, 3, 2, 1]
    assert [entry["amount_minor"] for entry in entries] == [-6, -5, -4, -3, -2, -1, 1000]
    assert [entry["balance_after_minor"] for entry in entries] == [979, 985, 990, 994, 997, 999, 1000]


def test_without_a_limit_a_page_holds_fifty_entries(client: httpx.Client, database: Connection) -> None:
    account_id = open_account(client)
    database.execute("select bank.credit(%s, 1) from generate_series(1, 51)", [account_id])
    page = client.get(f"/v1/accounts/{account_id}/entries").json()
    assert len(page["entries"]) == 50
    assert page["next_cursor"] is not None


def test_entries_posted_meanwhile_do_not_shift_the_pages(client: httpx.Client) -> None:
    account_id = open_account(client, balance_minor=1)
    path = f"/v1/accounts/{account_id}"
    client.post(f"{path}/credit", json={"amount_minor": 2}, headers=new_key())
    first = client.get(f"{path}/entries", params={"limit": 1}).json()
    client.post(f"{path}/credit", json={"amount_minor": 3}, headers=new_key())
    second = client.get(f"{path}/entries", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert [entry["amount_minor"] for entry in second["entries"]] == [1]
    assert second["next_cursor"] is None


def test_an_account_without_entries_has_an_empty_page(client: httpx.Client) -> None:
    answer = client.get(f"/v1/accounts/{open_account(client)}/entries")
    assert answer.json() == {"entries": [], "next_cursor": None}


@pytest.mark.parametrize(
    "limit", ["0", "1001", "-1", "1.0", "1e1", "01", "+1", " 1", "", "x", "null", "true", "٣", "9" * 40, "%00"]
)
def test_a_limit_is_a_whole_number_from_1_to_1000(client: httpx.Client, account_id: int, limit: str) -> None:
    answer = client.get(f"/v1/accounts/{account_id}/entries?limit={limit}")
    assert fields_of(problem_of(answer, 400, "invalid_request")) == ["limit"]


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "1", "v3", "djM!!", " djM", "djM=", "%00", "%ff", "é", "null", "A" * 5000),
        *(encoded(text) for text in ("v", "v0", "v-1", "v01", "v1.0", "v٣", "w3", f"v{2**63}", "v3\n")),
    ],
)
def test_a_cursor_that_no_page_gave_is_refused(client: httpx.Client, account_id: int, cursor: str) -> None:
    answer = client.get(f"/v1/accounts/{account_id}/entries?cursor={cursor}")
    assert fields_of(problem_of(answer, 400, "invalid_request")) == ["cursor"]
