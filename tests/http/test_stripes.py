"""PUT /v1/accounts/{account_id}/stripes."""

import httpx

from tests.http.conftest import Service, fields_of, new_key, open_account, problem_of


def test_a_hot_account_is_striped_and_behaves_as_before(client: httpx.Client) -> None:
    hot, ada = open_account(client, overdraft_limit_minor=None), open_account(client, balance_minor=100)
    path = f"/v1/accounts/{hot}"
    answer = client.put(f"{path}/stripes", json={"stripes": 20})
    assert (answer.status_code, answer.json()["stripes"]) == (200, 20)
    assert client.get(path).json() == answer.json()
    body = {"debit_account_id": ada, "credit_account_id": hot, "amount_minor": 30}
    posted = client.post("/v1/transfers", json=body, headers=new_key()).json()
    assert (posted["credit_account_id"], posted["credit_balance_after_minor"]) == (hot, None)
    [line] = client.get(f"{path}/entries").json()["entries"]
    assert (line["version"], line["balance_after_minor"], line["counterparty_account_id"]) == (1, 30, ada)


def test_stripes_are_for_accounts_without_limit_and_for_admins(client: httpx.Client, service: Service) -> None:
    path = f"/v1/accounts/{open_account(client)}/stripes"
    problem_of(client.put(path, json={"stripes": 2}), 422, "account_limited")
    assert fields_of(problem_of(client.put(path, json={"stripes": 65}), 400, "invalid_request")) == ["stripes"]
    with service.http.client(service.create_key("accounts:write")) as other:
        problem_of(other.put(path, json={"stripes": 2}), 403, "insufficient_scope")
