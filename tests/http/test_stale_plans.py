"""A service whose prepared statements are of before an upgrade: they are discarded, and the call is made again."""

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Bank
from tests.helpers import violations
from tests.http.conftest import new_key, open_account, transfer
from tests.http_server import HttpServer, create_key


@pytest.fixture
def own_http(bank: Bank) -> Iterator[HttpServer]:
    """A service on a bank of the test's own."""
    http = HttpServer(bank.app_url, workers=1, pool_connections_max=1)
    try:
        http.start()
        yield http
    finally:
        http.stop()


def test_a_row_type_that_grows_is_no_error_of_a_request(bank: Bank, own_http: HttpServer) -> None:
    key, _ = create_key(bank)

    def ask(client: httpx.Client) -> None:
        answer = client.get(f"/v1/accounts/{ada}")
        assert answer.status_code == 200, answer.text
        posted = transfer(client, ada, bob, 1)
        assert posted.status_code == 201, posted.text
        body = {"debit_account_id": ada, "credit_account_id": bob, "amount_minor": 1}
        trial = client.post("/v1/transfers?dry_run=true", json=body, headers=new_key())
        assert trial.status_code == 200, trial.text

    with own_http.client(key) as client, bank.connect("bank_owner") as owner:
        ada, bob = open_account(client, balance_minor=500), open_account(client)
        ask(client)
        assert client.get(f"/v1/accounts/{ada}").status_code == 200  # after a rollback it is prepared anew
        definition = "select pg_get_viewdef('bank.account_detail') as text"
        (view,) = owner.execute(definition.encode()).fetchall()
        grown = view["text"].replace("\n   FROM", ",\n    1 AS tier\n   FROM", 1)
        owner.execute(f"create or replace view bank.account_detail as {grown}".encode())
        # The same functions again, so that plans of calls are looked at anew.
        (function,) = owner.execute("select pg_get_functiondef('bank.account'::regproc) as text").fetchall()
        owner.execute(function["text"].encode())
        ask(client)
        assert client.get(f"/v1/accounts/{ada}").json()["tier"] == 1
        assert violations(owner) == []
    assert "cached plan" not in own_http.log()
