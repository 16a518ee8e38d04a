"""Who may do what."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from service import keys
from service.coalescer import SLOW_CALLS_MAX
from service.owner import call, connect
from tests.conftest import Bank, Connection
from tests.http.conftest import Service, new_key, open_account, problem_of, transfer
from tests.http.test_metrics import figure
from tests.http_server import HttpServer, create_key, wait_for

SCOPE_OF_ROUTE = {
    "POST /v1/accounts": "accounts:write",
    "POST /v1/accounts/batch": "accounts:write",
    "GET /v1/accounts/{account}": "accounts:read",
    "GET /v1/accounts/{account}/balance": "accounts:read",
    "GET /v1/accounts/{account}/entries": "accounts:read",
    "GET /v1/transactions?idempotency_key={key}": "accounts:read",
    "GET /v1/transactions/{transaction}": "accounts:read",
    "POST /v1/accounts/{account}/credit": "transactions:write",
    "POST /v1/accounts/{account}/debit": "transactions:write",
    "POST /v1/transfers": "transactions:write",
    "POST /v1/transfers/batch": "transactions:write",
    "POST /v1/transfers/explain": "transactions:write",
    "POST /v1/transactions": "transactions:write",
    "POST /v1/transactions/{transaction}/reverse": "transactions:write",
    "POST /v1/holds": "transactions:write",
    "POST /v1/holds/{hold}/capture": "transactions:write",
    "POST /v1/holds/{hold}/void": "transactions:write",
    "GET /v1/holds/{hold}": "accounts:read",
    "POST /v1/exchanges": "transactions:write",
    "POST /v1/sweeps": "transactions:write",
    "POST /v1/ledger-transfers": "admin",
    "PUT /v1/accounts/{account}/limits/transaction": "accounts:write",
    "GET /v1/accounts/{account}/limits": "accounts:read",
    "GET /v1/accounts/{account}/changes": "accounts:read",
    "PUT /v1/accounts/{account}/stripes": "admin",
    "POST /v1/accounts/{account}/freeze": "accounts:write",
    "POST /v1/accounts/{account}/unfreeze": "accounts:write",
    "POST /v1/accounts/{account}/close": "accounts:write",
    "POST /v1/accounts/{account}/reopen": "admin",
}
"""freeze comes right before unfreeze, so that the account stays open; it has money, so that it is not closed."""


@pytest.fixture(scope="module")
def facts(client: httpx.Client) -> dict[str, object]:
    """An account with money, and its transaction."""
    account_id = open_account(client)
    path = f"/v1/accounts/{account_id}/credit"
    posting = client.post(path, json={"amount_minor": 10_000}, headers=new_key()).json()
    hold = client.post("/v1/holds", json={"account_id": account_id, "amount_minor": 1}, headers=new_key()).json()
    return {
        "account": account_id,
        "transaction": posting["transaction_id"],
        "key": posting["idempotency_key"],
        "hold": hold["transaction_id"],
    }


def ask(client: httpx.Client, route: str, facts: dict[str, object]) -> httpx.Response:
    """Send a valid request to this route."""
    method, _, path = route.partition(" ")
    body: dict[str, object] | None = None
    sides = {"debit_account_id": facts["account"], "credit_account_id": facts["account"]}
    if path == "/v1/accounts":
        body = {"holder_name": "Ada Lovelace", "currency": "EUR"}
    elif path == "/v1/accounts/batch":
        body = {"accounts": [{"holder_name": "Ada Lovelace", "currency": "EUR"}]}
    elif path == "/v1/transfers/batch":
        body = {"transfers": [{**sides, "amount_minor": 1}]}
    elif path == "/v1/transactions" and method == "POST":
        leg = {"account_id": facts["account"], "amount_minor": 1}
        body = {"legs": [leg, {**leg, "amount_minor": -1}]}
    elif path.startswith(("/v1/transfers", "/v1/exchanges", "/v1/sweeps", "/v1/ledger-transfers")):
        amount = {} if path == "/v1/sweeps" else {"amount_minor": 1}
        more: dict[str, dict[str, object]] = {
            "/v1/exchanges": {"rate": "1.5"},
            "/v1/ledger-transfers": {"credit_ledger_id": 1},
        }
        body = {**sides, **amount, **more.get(path, {})}
    elif path == "/v1/holds":
        body = {"account_id": facts["account"], "amount_minor": 1}
    elif path.endswith("/stripes"):
        body = {"stripes": 1}
    elif path.endswith("/limits/transaction"):
        body = {"amount_max_minor": 1_000_000}
    elif path.endswith(("/freeze", "/unfreeze", "/close", "/reopen", "/void")):
        body = {}
    elif method == "POST":
        body = {"amount_minor": 1}
    return client.request(method, path.format(**facts), json=body, headers=new_key())


@pytest.mark.parametrize("scope", keys.SCOPES)
def test_a_key_opens_the_routes_of_its_scope_and_no_others(
    service: Service, facts: dict[str, object], scope: str
) -> None:
    with service.http.client(service.create_key(scope)) as client:
        for route, required in SCOPE_OF_ROUTE.items():
            answer = ask(client, route, facts)
            if scope in (required, "admin"):
                # What is asked for may be impossible: a transfer to the same account, closing one that has money.
                assert answer.status_code in (200, 201, 409, 422), (route, answer.text)
            else:
                problem = problem_of(answer, 403, "insufficient_scope")
                assert problem["required_scope"] == required


def test_a_key_has_all_of_its_scopes(service: Service, facts: dict[str, object]) -> None:
    with service.http.client(service.create_key("accounts:read", "transactions:write")) as client:
        statuses = {route: ask(client, route, facts).status_code for route in SCOPE_OF_ROUTE}
    closed = {route for route, scope in SCOPE_OF_ROUTE.items() if scope in ("accounts:write", "admin")}
    assert {route for route, status in statuses.items() if status == 403} == closed


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Basic YTpi", "Bearer pgt_unknown", "Token {key}", "{key}"),
        *("Bearer {key}x", "Bearer x{key}", "Bearer {key} {key}", "Bearer, {key}", "Bearer {key_upper}"),
    ],
)
@pytest.mark.usefixtures("nothing_is_posted")
def test_without_a_valid_key_every_route_is_closed(
    service: Service, admin_key: str, facts: dict[str, object], header: str | None
) -> None:
    with service.http.client() as client:
        if header is not None:
            client.headers["Authorization"] = header.format(key=admin_key, key_upper=admin_key.upper())
        for route in SCOPE_OF_ROUTE:
            answer = ask(client, route, facts)
            problem_of(answer, 401, "unauthenticated")
            assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("raw", [b"Bearer \xff\xfe", "Bearer pgt_ключ".encode()])
def test_a_key_that_is_not_ascii_is_refused(service: Service, raw: bytes) -> None:
    with service.http.client() as client:
        answer = client.get("/v1/accounts/1", headers={b"Authorization": raw})
        problem_of(answer, 401, "unauthenticated")


def test_the_scheme_is_written_in_any_case(service: Service, admin_key: str, facts: dict[str, object]) -> None:
    with service.http.client() as client:
        client.headers["Authorization"] = f"bEARER {admin_key}"
        assert client.get(f"/v1/accounts/{facts['account']}").status_code == 200


def test_health_needs_no_key(service: Service) -> None:
    with service.http.client() as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 200


def test_a_refused_key_is_told_before_its_body_is_read(service: Service) -> None:
    with service.http.client() as client:
        answer = client.post("/v1/transfers", content=b"{", headers={"Content-Type": "application/json"})
        problem_of(answer, 401, "unauthenticated")


def test_a_revoked_key_is_refused_once_the_workers_have_forgotten_it(
    service: Service, facts: dict[str, object]
) -> None:
    key, api_key_id = create_key(service.bank)
    path = f"/v1/accounts/{facts['account']}"

    def statuses() -> set[int]:
        """Of several connections, so that every worker is asked."""
        found = set()
        for _ in range(16):
            with service.http.client(key) as client:
                found.add(client.get(path).status_code)
        return found

    assert statuses() == {200}
    with connect(service.bank.owner_url) as owner:
        call(owner, "revoke_api_key", api_key_id=api_key_id)
    revoked_at = time.monotonic()
    cache_seconds = service.http.settings.key_cache_seconds
    wait_for(lambda: time.monotonic() - revoked_at > cache_seconds, "the cache has expired")
    assert statuses() == {401}


def test_an_expired_key_is_refused_at_once_even_by_a_worker_that_knows_it(
    service: Service, facts: dict[str, object]
) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=service.http.settings.key_cache_seconds * 1.5)
    key, _ = create_key(service.bank, expires_at=expires_at)
    asked_at = datetime.min.replace(tzinfo=UTC)
    with service.http.client(key) as client:  # one connection, so one worker, which has looked it up just before
        while asked_at < expires_at:
            asked_at = datetime.now(UTC)
            answer = client.get(f"/v1/accounts/{facts['account']}")
            if datetime.now(UTC) < expires_at:
                assert answer.status_code == 200
    problem_of(answer, 401, "unauthenticated")


def test_a_key_made_expired_is_refused(service: Service) -> None:
    key, _ = create_key(service.bank, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with service.http.client(key) as client:
        problem_of(client.get("/v1/accounts/1"), 401, "unauthenticated")


def test_a_ledger_does_not_see_the_accounts_of_another(
    client: httpx.Client, other_client: httpx.Client, facts: dict[str, object]
) -> None:
    own, foreign = open_account(other_client, balance_minor=5), facts["account"]
    assert isinstance(foreign, int)
    for path in ("", "/balance", "/entries"):
        problem_of(other_client.get(f"/v1/accounts/{foreign}{path}"), 404, "account_not_found")
    for direction in ("credit", "debit"):
        answer = other_client.post(f"/v1/accounts/{foreign}/{direction}", json={"amount_minor": 1}, headers=new_key())
        problem_of(answer, 404, "account_not_found")
    problem_of(transfer(other_client, own, foreign, 1), 404, "account_not_found")
    problem_of(transfer(other_client, foreign, own, 1), 404, "account_not_found")
    body = {"amount_minor": 1, "beneficiary_account_id": foreign}
    answer = other_client.post(f"/v1/accounts/{own}/debit", json=body, headers=new_key())
    problem_of(answer, 404, "account_not_found")
    problem_of(other_client.get(f"/v1/transactions/{facts['transaction']}"), 404, "transaction_not_found")
    found = other_client.get("/v1/transactions", params={"idempotency_key": str(facts["key"])})
    problem_of(found, 404, "transaction_not_found")


def look_ups(http: HttpServer) -> tuple[float, float]:
    """Return how many calls looked keys up, and for how many requests."""
    name = "pgteller_coalescer_flush_items"
    return figure(http, f"{name}_count", function="principals"), figure(http, f"{name}_sum", function="principals")


def test_equal_keys_are_looked_up_once_and_others_together(bank: Bank) -> None:
    """While one look-up is held up, all the others gather behind it."""
    http = HttpServer(bank.app_url, workers=1, lock_timeout_ms=0)
    keys = [create_key(bank)[0] for _ in range(3)]
    try:
        http.start()
        with (
            bank.connect("bank_owner", autocommit=False) as locker,
            bank.connect("bank_owner") as owner,
            ThreadPoolExecutor(100) as threads,
        ):
            locker.execute("lock table bank.api_key in access exclusive mode")

            def ask(key: str) -> int:
                with http.client(key) as client:
                    return client.get("/v1/accounts/1").status_code

            # So many that all calls which may go past a slow one are held up as well.
            answers = [threads.submit(ask, keys[0]) for _ in range(1 + SLOW_CALLS_MAX)]
            query = "select from pg_stat_activity where application_name = 'pgteller' and pg_blocking_pids(pid) <> '{}'"
            wait_for(lambda: bool(owner.execute(query).fetchall()), "a look-up waits")
            answers += [threads.submit(ask, key) for key in [*keys * 10, *(f"pgt_{n}" for n in range(20))]]
            wait_for(lambda: figure(http, "pgteller_coalescer_queued", function="principals") > 0, "others queue")
            locker.rollback()
            statuses = [answer.result() for answer in answers]
        assert (statuses.count(404), statuses.count(401)) == (1 + SLOW_CALLS_MAX + 30, 20)
        calls, _ = look_ups(http)
        assert calls < len(answers) / 2
    finally:
        http.stop()


def test_a_key_is_looked_up_once_while_it_is_remembered_known_or_not(bank: Bank) -> None:
    http = HttpServer(bank.app_url, workers=1, key_cache_seconds=60)
    try:
        http.start()
        key, _ = create_key(bank)
        for each, status in ((key, 404), ("pgt_of_nobody", 401)):
            before = look_ups(http)
            with http.client(each) as client:
                assert [client.get("/v1/accounts/1").status_code for _ in range(5)] == [status] * 5
            assert look_ups(http) == (before[0] + 1, before[1] + 1)
    finally:
        http.stop()


def test_an_unknown_key_is_looked_up_again_once_it_is_forgotten(bank: Bank, owner: Connection) -> None:
    http = HttpServer(bank.app_url, workers=1, key_cache_seconds=1)
    try:
        http.start()
        with http.client("pgt_made_later") as client:
            assert client.get("/v1/accounts/1").status_code == 401
            digest = keys.digest("pgt_made_later")
            owner.execute("select bank.create_api_key('later', %s, '{admin}')", [digest])
            wait_for(lambda: client.get("/v1/accounts/1").status_code == 404, "the key is known", 10)
    finally:
        http.stop()
