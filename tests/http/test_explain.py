"""POST /v1/transfers/explain: what a transfer would do, check by check."""

import httpx
import pytest

from tests.http.conftest import open_account, problem_of

PATH = "/v1/transfers/explain"


@pytest.fixture
def accounts(client: httpx.Client) -> tuple[int, int]:
    ada, bob = open_account(client, balance_minor=100), open_account(client)
    client.put(f"/v1/accounts/{ada}/limits/day", json={"amount_max_minor": 80})
    return ada, bob


@pytest.fixture
def _nothing_is_posted_after(accounts: tuple[int, int], request: pytest.FixtureRequest) -> None:
    """Compare from when the accounts are funded."""
    request.getfixturevalue("nothing_is_posted")


@pytest.mark.usefixtures("_nothing_is_posted_after")
@pytest.mark.parametrize(
    ("amount_minor", "code", "balances"),
    [(80, None, (20, 80)), (81, "day_amount_exceeded", (None, None)), (101, "insufficient_funds", (None, None))],
)
def test_an_explanation_is_the_verdict_of_each_check_and_the_balances_after(
    client: httpx.Client,
    accounts: tuple[int, int],
    amount_minor: int,
    code: str | None,
    balances: tuple[int | None, int | None],
) -> None:
    ada, bob = accounts
    body = {"debit_account_id": ada, "credit_account_id": bob, "amount_minor": amount_minor}
    answer = client.post(PATH, json=body)
    assert answer.status_code == 200
    explained = answer.json()
    assert (explained["verdict"], explained["failure_code"]) == ("failure" if code else "success", code)
    assert (explained["debit_balance_after_minor"], explained["credit_balance_after_minor"]) == balances
    assert (explained["currency"], explained["debit_available_minor"]) == ("EUR", 100)
    assert [limit["limit_kind"] for limit in explained["limits"]] == ["day"]
    outcomes = {check["code"]: check["outcome"] for check in explained["checks"]}
    assert outcomes["same_account"] == "passed"
    assert [each for each, outcome in outcomes.items() if outcome == "failed"] == ([code] if code else [])
    assert outcomes["month_count_exceeded"] == ("not_reached" if code else "passed")


def test_an_explanation_is_about_accounts_that_exist(client: httpx.Client, accounts: tuple[int, int]) -> None:
    body = {"debit_account_id": accounts[0], "credit_account_id": 10**12, "amount_minor": 1}
    problem_of(client.post(PATH, json=body), 404, "account_not_found")
