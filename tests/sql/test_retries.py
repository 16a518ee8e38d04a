"""Retries of each kind of posting, and what does and does not use a key up."""

import pytest

from tests.conftest import Connection
from tests.helpers import balance_of, call, count, open_account, raises

POSTINGS = {
    "credit": ("credit", [2, 1]),
    "debit": ("debit", [2, 1]),
    "debit to a beneficiary": ("debit", [2, 1, 3]),
    "transfer": ("transfer", [2, 3, 1]),
    "a rejected transfer": ("transfer", [2, 3, 101]),
}


@pytest.fixture(autouse=True)
def accounts(app: Connection) -> None:
    """Accounts 2 and 3."""
    assert [open_account(app, 100), open_account(app, 100)] == [2, 3]


@pytest.mark.parametrize(("function", "arguments"), POSTINGS.values(), ids=POSTINGS)
def test_a_retry_of_any_posting_returns_its_outcome_with_the_balances_of_then(
    app: Connection, owner: Connection, function: str, arguments: list[int]
) -> None:
    first = call(app, function, *arguments, idempotency_key="k", description="d", external_id="e", metadata='{"a": 1}')
    call(app, "transfer", 2, 3, 7)
    call(app, "credit", 3, 9)
    rows = count(owner, "transaction"), count(owner, "entry")
    again = call(app, function, *arguments, idempotency_key="k", description="d", external_id="e", metadata='{"a": 1}')
    assert again == {**first, "replayed": True}
    assert (count(owner, "transaction"), count(owner, "entry")) == rows


@pytest.mark.parametrize("stop", ["frozen", "closed"])
def test_a_used_key_is_answered_before_the_state_of_the_accounts(app: Connection, owner: Connection, stop: str) -> None:
    first = call(app, "transfer", 2, 3, 1, "k")
    owner.execute("update bank.account set account_status = %s", [stop])
    assert call(app, "transfer", 2, 3, 1, "k") == {**first, "replayed": True}
    with raises("TLKEY", "idempotency_key_reused", "amount_minor"):
        call(app, "transfer", 2, 3, 2, "k")


def test_null_and_empty_metadata_are_the_same_request(app: Connection) -> None:
    first = call(app, "credit", 2, 1, "k", metadata=None)
    assert call(app, "credit", 2, 1, "k", metadata="{}") == {**first, "replayed": True}
    assert call(app, "credit", 2, 1, "k") == {**first, "replayed": True}


def test_a_malformed_call_does_not_use_its_key_up(app: Connection) -> None:
    with raises("TLAMT", "invalid_amount"):
        call(app, "credit", 2, 0, "k")
    with raises("TLARG", "invalid_argument"):
        call(app, "credit", 2, 1, "k", "")
    with raises("TLACC", "account_not_found"):
        call(app, "credit", 99, 1, "k")
    assert call(app, "credit", 2, 1, "k")["replayed"] is False


def test_keys_that_differ_in_case_or_blanks_are_different_keys(app: Connection) -> None:
    for key in ("key", "KEY", " key", "key "):
        assert call(app, "credit", 2, 1, key)["replayed"] is False
    assert balance_of(app, 2) == 104
