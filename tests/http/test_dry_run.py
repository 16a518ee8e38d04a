"""?dry_run=true: the answer of a posting, and nothing left behind."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import Connection
from tests.http.conftest import Service, balance_of, new_key, open_account, post, posted, problem_of, transfer
from tests.http_server import wait_for

ROUTES = [
    *("credit", "debit", "transfer", "batch", "authorise", "capture", "void", "reverse", "post_legs", "exchange"),
    *("sweep", "transfer_to_ledger"),
]
DRY = {"dry_run": "true"}


@pytest.fixture(scope="module")
def accounts(client: httpx.Client) -> tuple[int, int, int]:
    """Two accounts with money, and one with no dollars."""
    return (
        open_account(client, balance_minor=1000),
        open_account(client, balance_minor=1000),
        open_account(client, "USD"),
    )


@pytest.fixture(scope="module")
def requests(
    client: httpx.Client, other_client: httpx.Client, accounts: tuple[int, int, int]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """The path and a body of a posting that would succeed, for each route."""
    ada, bob, dollars = accounts
    sides, amount = {"debit_account_id": ada, "credit_account_id": bob}, {"amount_minor": 7}
    hold = {"account_id": ada, **amount}
    hold_path = f"/v1/holds/{posted(post(client, '/v1/holds', hold))['transaction_id']}"
    paid = posted(transfer(client, ada, bob, 7))["transaction_id"]
    theirs = other_client.get(f"/v1/accounts/{open_account(other_client)}").json()
    abroad = {"credit_ledger_id": theirs["ledger_id"], "credit_account_id": theirs["account_id"]}
    legs = [{"account_id": ada, "amount_minor": -7}, {"account_id": bob, "amount_minor": 7}]
    exchange = {**sides, "credit_account_id": dollars, **amount, "rate": "1.1"}
    posted(post(client, "/v1/exchanges", exchange))  # the liquidity accounts come with the first
    posted(post(client, "/v1/ledger-transfers", {**sides, **abroad, **amount}))
    return {
        "credit": (f"/v1/accounts/{ada}/credit", amount),
        "debit": (f"/v1/accounts/{ada}/debit", amount),
        "transfer": ("/v1/transfers", {**sides, **amount}),
        "batch": ("/v1/transfers/batch", {"transfers": [{**sides, **amount}]}),
        "authorise": ("/v1/holds", hold),
        "capture": (f"{hold_path}/capture", {}),
        "void": (f"{hold_path}/void", {}),
        "reverse": (f"/v1/transactions/{paid}/reverse", {}),
        "post_legs": ("/v1/transactions", {"legs": legs}),
        "exchange": ("/v1/exchanges", exchange),
        "sweep": ("/v1/sweeps", sides),
        "transfer_to_ledger": ("/v1/ledger-transfers", {**sides, **abroad, **amount}),
    }


@pytest.fixture(scope="module")
def empty(client: httpx.Client) -> int:
    """An account with nothing on it."""
    return open_account(client)


@pytest.fixture
def _nothing_happens(
    requests: dict[str, tuple[str, dict[str, Any]]], empty: int, request: pytest.FixtureRequest, database: Connection
) -> Iterator[None]:
    """Nothing is recorded, held or counted from when the accounts are funded."""
    request.getfixturevalue("nothing_is_posted")
    query = """
        select (select sum(held_minor) from bank.account) as held, (select count(*) from bank.account) as accounts,
            (select count(*) from bank.hold where hold_status = 'open') as holds,
            (select count(*) from bank.account_change) as changes
    """
    before = database.execute(query).fetchone()
    yield
    assert database.execute(query).fetchone() == before


@pytest.mark.usefixtures("_nothing_happens")
@pytest.mark.parametrize("route", ROUTES)
def test_a_dry_run_answers_with_the_posting_and_posts_nothing(
    client: httpx.Client, requests: dict[str, tuple[str, dict[str, Any]]], route: str
) -> None:
    path, body = requests[route]
    key = new_key()
    for _ in range(2):
        answer = client.post(path, params=DRY, json=body, headers=key)
        assert (answer.status_code, answer.headers["Dry-Run"]) == (200, "true"), answer.text
        assert "Location" not in answer.headers
        assert "Idempotent-Replayed" not in answer.headers
        posting = answer.json()["transfers"][0] if route == "batch" else answer.json()
        assert (posting["transaction_status"], posting["replayed"]) == ("success", False)
        assert posting["transaction_id"] is None
        found = client.get("/v1/transactions", params={"idempotency_key": posting["idempotency_key"]})
        problem_of(found, 404, "transaction_not_found")


@pytest.mark.parametrize("route", ["credit", "transfer", "post_legs", "authorise"])
def test_a_dry_run_tells_what_then_happens_and_leaves_the_key_for_it(
    client: httpx.Client, requests: dict[str, tuple[str, dict[str, Any]]], route: str
) -> None:
    path, body = requests[route]
    key = new_key()
    foretold = client.post(path, params=DRY, json=body, headers=key).json()
    answer = client.post(path, params={"dry_run": "false"}, json=body, headers=key)
    assert "Dry-Run" not in answer.headers
    posting = posted(answer)
    differ = {"transaction_id", "created_at"}
    assert {name for name in posting if posting[name] != foretold[name]} == differ
    again = client.post(path, params=DRY, json=body, headers=key)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert again.json() == {**posting, "replayed": True}


def test_a_rejection_is_the_same_problem_and_is_not_recorded(
    client: httpx.Client, accounts: tuple[int, int, int], database: Connection
) -> None:
    ada, bob, _ = accounts
    body = {"debit_account_id": ada, "credit_account_id": bob, "amount_minor": 10**9}
    count = "select count(*) from bank.transaction"
    before = database.execute(count).fetchone()
    answer = client.post("/v1/transfers", params=DRY, json=body, headers=new_key())
    foretold = problem_of(answer, 422, "insufficient_funds")
    assert answer.headers["Dry-Run"] == "true"
    assert "transaction_id" not in foretold
    assert database.execute(count).fetchone() == before
    problem = problem_of(client.post("/v1/transfers", json=body, headers=new_key()), 422, "insufficient_funds")
    del problem["transaction_id"]
    assert {**problem, "request_id": None} == {**foretold, "request_id": None}


@pytest.mark.usefixtures("_nothing_happens")
def test_a_dry_run_of_a_batch_sees_its_earlier_items(
    client: httpx.Client, accounts: tuple[int, int, int], empty: int
) -> None:
    ada, bob, _ = accounts

    def item(debit: int, credit: int, amount_minor: int) -> dict[str, int]:
        return {"debit_account_id": debit, "credit_account_id": credit, "amount_minor": amount_minor}

    items = [item(empty, bob, 5), item(ada, empty, 10), item(empty, bob, 5)]
    answer = client.post("/v1/transfers/batch", params=DRY, json={"transfers": items}, headers=new_key())
    rows = answer.json()["transfers"]
    assert [row["failure_code"] for row in rows] == ["insufficient_funds", None, None]
    assert [row["transaction_id"] for row in rows] == [None, None, None]
    body = {"transfers": items, "atomic": True}
    answer = client.post("/v1/transfers/batch", params=DRY, json=body, headers=new_key())
    assert problem_of(answer, 422, "insufficient_funds")["stopped_by"] == 1
    assert answer.headers["Dry-Run"] == "true"


@pytest.mark.usefixtures("_nothing_happens")
def test_what_is_malformed_is_refused_as_ever_and_the_connection_is_good_for_the_next(
    client: httpx.Client, accounts: tuple[int, int, int]
) -> None:
    body = {"debit_account_id": accounts[0], "credit_account_id": 10**12, "amount_minor": 1}
    for _ in range(20):
        answer = client.post("/v1/transfers", params=DRY, json=body, headers=new_key())
        problem_of(answer, 404, "account_not_found")
        assert client.get(f"/v1/accounts/{accounts[0]}").status_code == 200


def test_a_dry_run_waits_for_the_locks_of_others_and_holds_none_when_it_has_answered(
    client: httpx.Client, accounts: tuple[int, int, int], database: Connection, service: Service
) -> None:
    ada, bob, _ = accounts
    body = {"debit_account_id": ada, "credit_account_id": bob, "amount_minor": 1}
    with service.bank.connect("bank_owner", autocommit=False) as locker, ThreadPoolExecutor(1) as threads:
        locker.execute("select from bank.account where account_id = %s for update", [ada])
        answer = threads.submit(client.post, "/v1/transfers", params=DRY, json=body, headers=new_key())
        waiting = """
            select count(*) = 1 as waits from pg_stat_activity
            where datname = current_database() and application_name = 'pgteller' and pg_blocking_pids(pid) <> '{}'
        """
        wait_for(lambda: database.execute(waiting).fetchone() == {"waits": True}, "the dry run waits")
        locker.rollback()
        assert answer.result().status_code == 200
        locker.execute("select from bank.account where account_id = %s for update nowait", [ada])
        locker.rollback()
    before = balance_of(client, ada)
    posted(transfer(client, ada, bob, 1))
    assert balance_of(client, ada) == before - 1


def test_dry_runs_and_postings_of_many_clients_do_not_mix(client: httpx.Client) -> None:
    ada, bob = open_account(client, balance_minor=1000), open_account(client)

    def ask(number: int) -> bool:
        body = {"debit_account_id": ada, "credit_account_id": bob, "amount_minor": 1}
        dry_run = number % 2 == 0
        answer = client.post("/v1/transfers", params=DRY if dry_run else {}, json=body, headers=new_key())
        return answer.status_code == (200 if dry_run else 201)

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(ask, range(200)))
    assert (balance_of(client, ada), balance_of(client, bob)) == (900, 100)
