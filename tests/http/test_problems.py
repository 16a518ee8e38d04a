"""Every answer that is not a success is a problem (RFC 9457) with a code of the catalogue."""

import re
from typing import Any

import httpx
import psycopg
import pytest

from service.errors import from_database
from tests.conftest import Bank, Connection
from tests.http.conftest import Service, new_key, open_account, problem_of
from tests.http_server import HttpServer, create_key, wait_for

SECRET = "secret of the database"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v2/accounts", "/v1/nothing", "/v1/transfers/", "/v1/accounts/1/x"]
)
def test_a_path_that_is_not_there_is_not_found(client: httpx.Client, path: str) -> None:
    problem_of(client.get(path), 404, "not_found")
    problem_of(client.post(path, json={}, headers=new_key()), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/accounts", "POST"),
        ("/v1/accounts/batch", "POST"),
        ("/v1/accounts/1", "GET"),
        ("/v1/accounts/1/balance", "GET"),
        ("/v1/accounts/1/entries", "GET"),
        ("/v1/accounts/1/credit", "POST"),
        ("/v1/accounts/1/debit", "POST"),
        ("/v1/transfers", "POST"),
        ("/v1/transactions", "GET, POST"),
        ("/v1/holds", "POST"),
        ("/v1/holds/1", "GET"),
        ("/v1/accounts/1/limits", "GET"),
        ("/v1/accounts/1/limits/day", "PUT"),
        ("/v1/transactions/1", "GET"),
        ("/health/live", "GET"),
        ("/health/ready", "GET"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_answered_with_those_that_it_has(
    client: httpx.Client, path: str, allowed: str
) -> None:
    methods = {*allowed.split(", "), "OPTIONS", *(["HEAD"] if "GET" in allowed else [])}
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "LINK", "PURGE"} - methods:
        answer = client.request(method, path)
        assert answer.headers["Allow"].split(", ") == sorted(methods)
        if method == "HEAD":
            assert (answer.status_code, answer.content) == (405, b"")
        else:
            problem_of(answer, 405, "method_not_allowed")
    answer = httpx.options(f"{client.base_url}{path}")  # nobody needs a key to ask
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["Allow"].split(", ") == sorted(methods)


@pytest.mark.parametrize("request_id", ["a", "0-9_a.Z:z", "x" * 128])
def test_a_request_id_comes_back(client: httpx.Client, request_id: str) -> None:
    headers = {"X-Request-ID": request_id}
    for answer in (client.get("/health/live", headers=headers), client.get("/v1/nothing", headers=headers)):
        assert answer.headers["X-Request-ID"] == request_id


@pytest.mark.parametrize("request_id", [b"", b"x" * 129, b"a b", b"a\tb", "é".encode(), b'a"b', b"{}"])
def test_a_request_without_a_good_id_gets_one(client: httpx.Client, request_id: bytes) -> None:
    given = [
        client.get("/health/live", headers={b"X-Request-ID": request_id}).headers["X-Request-ID"] for _ in range(2)
    ]
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in given)
    assert given[0] != given[1]


def test_what_goes_wrong_inside_is_in_the_log_and_not_in_the_answer(bank: Bank) -> None:
    key, _ = create_key(bank)
    http = HttpServer(bank.app_url, workers=1)
    try:
        http.start()
        with bank.connect("bank_owner") as owner, http.client(key) as client:
            account_id = open_account(client)
            owner.execute(f"""
                create or replace function bank.account(account_id bigint, ledger_id bigint default 1)
                returns bank.account_detail language plpgsql
                as $$ begin raise exception '{SECRET}' using detail = '{SECRET}', hint = '{SECRET}'; end $$
            """)
            answer = client.get(f"/v1/accounts/{account_id}", headers={"X-Request-ID": "the-failed-one"})
            problem_of(answer, 500, "internal_error")
            assert SECRET not in answer.text
            assert SECRET not in str(answer.headers)
            wait_for(lambda: "the-failed-one" in http.log(), "the log says so")
            assert SECRET in http.log()

            # The worker goes on.
            assert client.get(f"/v1/accounts/{account_id}/balance").status_code == 200
    finally:
        http.stop()


NEWER = """
    create or replace function bank.account(account_id bigint, ledger_id bigint default 1)
    returns bank.account_detail language plpgsql
    as $$ begin raise exception using errcode = 'TLNEW', message = 'moon_in_wrong_phase', detail = {}, hint = {}; end $$
"""
MEANING = "Wait until it is full."
FACTS = '{"field": "account_id", "reason": "is lunar", "phase": 3, "code": "x", "status": 1, "headers": []}'


def test_an_error_that_only_a_newer_database_knows_is_answered_as_it_came(bank: Bank) -> None:
    key, _ = create_key(bank)
    http = HttpServer(bank.app_url, workers=1)
    try:
        http.start()
        with bank.connect("bank_owner") as owner, http.client(key) as client:
            ada = open_account(client, balance_minor=5)

            def raised(detail: str, hint: str = f"'{MEANING}'") -> dict[str, Any]:
                owner.execute(NEWER.format(detail, hint).encode())
                return problem_of(client.get(f"/v1/accounts/{ada}"), 400, "moon_in_wrong_phase")

            problem = raised(f"'{FACTS}'")
            assert (problem["detail"], problem["title"], problem["phase"]) == (MEANING, "Moon in wrong phase", 3)
            assert problem["errors"] == [{"field": "account_id", "reason": "is lunar"}]
            assert raised("""'{"field": "account_id"}'""")["errors"][0]["field"] == "account_id"
            for detail in ("''", "'nonsense'", "'[1]'", "'null'", "'7'", "'{'"):
                assert raised(detail)["detail"] == MEANING
            assert raised("'nonsense'", "''")["detail"] == "Moon in wrong phase"
            assert "Traceback" not in http.log()
    finally:
        http.stop()


@pytest.mark.parametrize("facts", ['{"phase": 3, "account_id": 7}', "[3]", None])
def test_a_rejection_that_only_a_newer_database_knows_is_answered_as_it_came(bank: Bank, facts: str | None) -> None:
    key, _ = create_key(bank)
    http = HttpServer(bank.app_url, workers=1)
    try:
        http.start()
        with bank.connect("bank_owner") as owner, http.client(key) as client:
            ada, bob = open_account(client, balance_minor=5), open_account(client)
            body, headers = {"debit_account_id": ada, "credit_account_id": bob, "amount_minor": 6}, new_key()
            problem_of(client.post("/v1/transfers", json=body, headers=headers), 422, "insufficient_funds")
            # A newer process recorded it so.
            owner.execute(
                "update bank.transaction set failure_code = 'moon_in_wrong_phase', failure_detail = %s"
                " where transaction_status = 'failure'",
                [facts],
            )
            for query in ("", "?dry_run=true"):
                answer = client.post(f"/v1/transfers{query}", json=body, headers=headers)
                problem = problem_of(answer, 422, "moon_in_wrong_phase")
                assert problem["transaction_id"] > 0
                assert ("phase" in problem) == (facts is not None and "phase" in facts)
            recorded = client.get(f"/v1/transactions/{problem['transaction_id']}").json()
            assert recorded["failure_code"] == "moon_in_wrong_phase"
            batch = {"transfers": [{**body, "idempotency_key": headers["Idempotency-Key"]}]}
            [row] = client.post("/v1/transfers/batch", json=batch, headers=new_key()).json()["transfers"]
            assert row["failure_code"] == "moon_in_wrong_phase"
            answer = client.post("/v1/transfers/batch", json={**batch, "atomic": True}, headers=new_key())
            assert problem_of(answer, 422, "moon_in_wrong_phase")["stopped_by"] == 1
            assert "Traceback" not in http.log()
    finally:
        http.stop()


def test_a_wait_for_a_lock_that_takes_too_long_posts_nothing_and_says_so(bank: Bank) -> None:
    key, _ = create_key(bank)
    http = HttpServer(bank.app_url, workers=1, request_timeout_seconds=1)
    try:
        http.start()
        with bank.connect("bank_owner", autocommit=False) as owner, http.client(key) as client:
            account_id = open_account(client)
            path, body, headers = f"/v1/accounts/{account_id}/credit", {"amount_minor": 5}, new_key()
            owner.execute("select from bank.account where account_id = %s for update", [account_id])
            answer = client.post(path, json=body, headers=headers)
            problem_of(answer, 503, "timed_out")
            assert answer.headers["Retry-After"] == "1"
            owner.rollback()
            assert client.post(path, json=body, headers=headers).status_code == 201
    finally:
        http.stop()


def test_the_log_of_the_shared_service_has_no_surprises(service: Service) -> None:
    assert "internal_error" not in service.http.log()


@pytest.mark.parametrize(
    ("sqlstate", "code"),
    [
        ("40001", "timed_out"),
        ("40P01", "timed_out"),
        ("55P03", "timed_out"),
        ("57014", "timed_out"),
        ("25006", "read_only"),
        ("53100", "database_failed"),
        ("53200", "database_failed"),
        ("55000", "database_failed"),
        ("55006", "database_failed"),
        ("57000", "database_failed"),
        ("58030", "database_failed"),
        ("22003", "invalid_request"),
        ("57P01", "outcome_unknown"),
        ("08006", "outcome_unknown"),
        ("XX000", "internal_error"),
        ("42883", "internal_error"),
    ],
)
def test_an_error_of_the_database_is_told_for_what_it_leaves_behind(
    database: Connection, sqlstate: str, code: str
) -> None:
    with pytest.raises(psycopg.Error) as raised:
        database.execute(f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$")
    assert from_database(raised.value).body["code"] == code
