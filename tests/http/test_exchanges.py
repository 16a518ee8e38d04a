"""Exchanges over HTTP: the rate comes and goes as a string, and not a digit of it is lost."""

import httpx
import pytest

from tests.http.conftest import assert_replays, balance_of, fields_of, new_key, open_account, post, posted, problem_of

PATH = "/v1/exchanges"


@pytest.fixture
def accounts(client: httpx.Client) -> tuple[int, int]:
    """Euros, and yen, which have no cents."""
    return open_account(client, balance_minor=1_000_000), open_account(client, "JPY")


def body_of(accounts: tuple[int, int], amount_minor: int, rate: object) -> dict[str, object]:
    sides = {"debit_account_id": accounts[0], "credit_account_id": accounts[1]}
    return {**sides, "amount_minor": amount_minor, "rate": rate}


@pytest.mark.parametrize(
    ("amount_minor", "rate", "credited", "residue"),
    [
        (10_000, "163.25", 16_325, "0"),
        (12_345, "163.1234567890123456789", 20_137, "0.590740603574074060205"),
        (1_000, "0.1000000001", 1, "0.000000001"),
        (100, "1.00000000000000000001", 1, "0.00000000000000000001"),
        (1, "99999999999999900", 999_999_999_999_999, "0"),
    ],
)
def test_an_exchange_credits_what_the_rate_gives_cut_off_and_tells_the_rest_exactly(
    client: httpx.Client, accounts: tuple[int, int], amount_minor: int, rate: str, *, credited: int, residue: str
) -> None:
    posting = posted(post(client, PATH, body_of(accounts, amount_minor, rate)))
    assert (posting["exchange_rate"], posting["exchange_residue_minor"]) == (rate, residue)
    assert [leg["amount_minor"] for leg in posting["legs"]] == [-amount_minor, credited, amount_minor, -credited]
    assert [leg["currency"] for leg in posting["legs"]] == ["EUR", "JPY", "EUR", "JPY"]
    assert [balance_of(client, account_id) for account_id in accounts] == [1_000_000 - amount_minor, credited]
    assert client.get(f"/v1/transactions/{posting['transaction_id']}").json() == posting


@pytest.mark.parametrize("rate", [163.25, 163, 1e2])
def test_a_rate_that_is_a_number_is_refused_by_name(
    client: httpx.Client, accounts: tuple[int, int], rate: float
) -> None:
    problem = problem_of(post(client, PATH, body_of(accounts, 100, rate)), 400, "invalid_request")
    assert fields_of(problem) == ["rate"]
    assert "`str`" in problem["detail"]


def test_an_exchange_replays_also_when_the_rate_is_written_with_more_zeros(
    client: httpx.Client, accounts: tuple[int, int]
) -> None:
    assert_replays(client, PATH, body_of(accounts, 100, "163.25"))
    key = new_key()
    first = posted(post(client, PATH, body_of(accounts, 100, "1.5"), **key))
    retry = post(client, PATH, body_of(accounts, 100, "1.50"), **key)
    assert (retry.status_code, retry.json()) == (200, {**first, "replayed": True})
    assert first["exchange_rate"] == "1.5"


def test_an_exchange_for_nothing_or_within_a_currency_is_rejected(
    client: httpx.Client, accounts: tuple[int, int]
) -> None:
    problem = problem_of(post(client, PATH, body_of(accounts, 1, "99.999")), 422, "amount_too_small")
    assert problem["rate"] == "99.999"
    euros = open_account(client)
    answer = post(client, PATH, body_of((accounts[0], euros), 1, "1"))
    assert problem_of(answer, 422, "same_currency")["currency"] == "EUR"
    answer = post(client, PATH, body_of(accounts, 1_000_001, "163.25"))
    problem_of(answer, 422, "insufficient_funds")
    assert [balance_of(client, account_id) for account_id in accounts] == [1_000_000, 0]


def test_an_exchange_is_reversed_as_a_whole(client: httpx.Client, accounts: tuple[int, int]) -> None:
    posting = posted(post(client, PATH, body_of(accounts, 10_000, "163.25")))
    path = f"/v1/transactions/{posting['transaction_id']}/reverse"
    problem_of(post(client, path, {"amount_minor": 1}), 422, "reversal_exceeds_original")
    posted(post(client, path, {}))
    assert [balance_of(client, account_id) for account_id in accounts] == [1_000_000, 0]
