"""Transfers between ledgers: a transaction in each, both or none, and each book balances on its own."""

import pytest

from tests.conftest import Connection
from tests.helpers import Row, call, count, open_account, raises, violations


@pytest.fixture
def branch(owner: Connection) -> int:
    ledger_id: int = call(owner, "create_ledger", "Branch")["ledger_id"]
    return ledger_id


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 1000)


@pytest.fixture
def bob(app: Connection, branch: int) -> int:
    return open_account(app, 500, ledger_id=branch)


def send(app: Connection, debit: tuple[int, int], credit: tuple[int, int], amount: object, **named: object) -> Row:
    """Send from account and ledger to account and ledger."""
    return call(app, "transfer_to_ledger", debit[0], credit[1], credit[0], amount, ledger_id=debit[1], **named)


def balance(app: Connection, account_id: int, ledger_id: int) -> int:
    minor: int = call(app, "balance", account_id, ledger_id)["balance_minor"]
    return minor


def clearing(owner: Connection, ledger_id: int) -> int:
    """What the ledger has in its clearing account in EUR."""
    (row,) = owner.execute(
        "select b.balance_minor from bank.account as a join bank.account_balance as b using (ledger_id, account_id)"
        " where a.clearing and a.currency = 'EUR' and ledger_id = %s",
        [ledger_id],
    ).fetchall()
    minor: int = row["balance_minor"]
    return minor


def test_each_ledger_has_its_side(app: Connection, owner: Connection, ada: int, bob: int, branch: int) -> None:
    ours = send(app, (ada, 1), (bob, branch), 300, description="Branch")
    assert (ours["transaction_type"], ours["failure_code"], ours["ledger_id"]) == ("cross_ledger", None, 1)
    assert (ours["debit_account_id"], ours["debit_balance_after_minor"]) == (ada, 700)
    assert ours["counterpart_ledger_id"] == branch
    theirs = call(app, "get_transaction", ours["original_transaction_id"], branch)
    assert (theirs["credit_account_id"], theirs["amount_minor"], theirs["description"]) == (bob, 300, "Branch")
    assert (theirs["original_transaction_id"], theirs["counterpart_ledger_id"]) == (ours["transaction_id"], 1)
    assert call(app, "get_transaction", ours["transaction_id"]) == ours
    assert (balance(app, ada, 1), balance(app, bob, branch)) == (700, 800)
    assert (clearing(owner, 1), clearing(owner, branch)) == (300, -300)
    for ledger_id in (1, branch):
        assert app.execute("select * from bank.verify(%s)", [ledger_id]).fetchall() == []


def test_what_ledgers_owe_each_other_is_in_the_clearing_accounts(
    app: Connection, owner: Connection, ada: int, bob: int, branch: int
) -> None:
    send(app, (ada, 1), (bob, branch), 300)
    send(app, (bob, branch), (ada, 1), 500)
    assert (balance(app, ada, 1), balance(app, bob, branch)) == (1200, 300)
    assert (clearing(owner, 1), clearing(owner, branch)) == (-200, 200)
    assert violations(app) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_rejection_in_the_other_ledger_leaves_our_recorded_failure_alone(
    app: Connection, owner: Connection, ada: int, bob: int, branch: int, *, there: bool
) -> None:
    debit, credit = ((ada, 1), (bob, branch)) if there else ((bob, branch), (ada, 1))
    send(app, debit, credit, 1)
    before = count(owner, "transaction"), count(owner, "entry"), clearing(owner, 1), clearing(owner, branch)
    call(app, "freeze_account", credit[0], debits=False, ledger_id=credit[1])
    rejected = send(app, debit, credit, 100, idempotency_key="key")
    assert (rejected["failure_code"], rejected["ledger_id"]) == ("account_frozen", debit[1])
    assert rejected["failure_detail"] == {"account_id": credit[0], "ledger_id": credit[1]}
    assert rejected["original_transaction_id"] is None
    assert (count(owner, "transaction"), count(owner, "entry"), clearing(owner, 1), clearing(owner, branch)) == (
        before[0] + 1, *before[1:]
    )  # fmt: skip
    call(app, "unfreeze_account", credit[0], ledger_id=credit[1])
    assert send(app, debit, credit, 100, idempotency_key="key") == {**rejected, "replayed": True}
    other = open_account(app, ledger_id=credit[1]), credit[1]
    with raises("TLKEY", "idempotency_key_reused", "credit_account_id"):
        send(app, debit, other, 100, idempotency_key="key")
    assert violations(app) == []


def test_a_rejection_in_our_ledger_does_not_reach_the_other(
    app: Connection, owner: Connection, ada: int, bob: int, branch: int
) -> None:
    rejected = send(app, (ada, 1), (bob, branch), 1001)
    assert rejected["failure_code"] == "insufficient_funds"
    assert rejected["failure_detail"] == {"account_id": ada, "needed_minor": 1001, "available_minor": 1000}
    call(app, "set_limit", ada, "day", 10)
    call(app, "freeze_account", bob, ledger_id=branch)
    assert send(app, (ada, 1), (bob, branch), 11)["failure_code"] == "day_amount_exceeded"
    assert owner.execute(
        "select count(*) as n from bank.transaction where transaction_type = 'cross_ledger' and ledger_id = %s",
        [branch],
    ).fetchall() == [{"n": 0}]
    assert violations(app) == []


def test_another_currency_there_is_a_mismatch(app: Connection, ada: int, branch: int) -> None:
    yen = open_account(app, currency="JPY", ledger_id=branch)
    rejected = send(app, (ada, 1), (yen, branch), 5)
    assert rejected["failure_code"] == "currency_mismatch"
    assert rejected["failure_detail"] == {"debit_currency": "EUR", "credit_currency": "JPY", "ledger_id": branch}
    assert balance(app, ada, 1) == 1000
    assert violations(app) == []


def test_a_clearing_account_in_a_currency_of_nobody_there_has_a_settlement_account_all_the_same(
    app: Connection, owner: Connection, ada: int, branch: int
) -> None:
    """What comes into it from outside goes through that, as for any account."""
    yen = open_account(app, currency="JPY", ledger_id=branch)
    send(app, (ada, 1), (yen, branch), 5)
    (row,) = owner.execute(
        "select account_id from bank.account where ledger_id = %s and currency = 'EUR' and clearing", [branch]
    ).fetchall()
    assert call(app, "credit", row["account_id"], 7, ledger_id=branch)["failure_code"] is None
    assert balance(app, row["account_id"], branch) == 7
    assert violations(app) == []


def test_within_a_ledger_money_is_moved_by_a_transfer(app: Connection, ada: int) -> None:
    eve = open_account(app)
    rejected = send(app, (ada, 1), (eve, 1), 5)
    assert (rejected["failure_code"], rejected["failure_detail"]) == ("same_ledger", {"ledger_id": 1})
    assert violations(app) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_retry_sends_nothing_again(app: Connection, ada: int, bob: int, branch: int, there: bool) -> None:
    debit, credit = ((ada, 1), (bob, branch)) if there else ((bob, branch), (ada, 1))
    first = send(app, debit, credit, 100, idempotency_key="key", metadata='{"a": 1}')
    assert send(app, debit, credit, 100, idempotency_key="key", metadata='{"a": 1}') == {**first, "replayed": True}
    assert balance(app, ada, 1) + balance(app, bob, branch) == 1500
    assert abs(balance(app, ada, 1) - 1000) == 100
    assert violations(app) == []


def test_a_key_belongs_to_one_request(app: Connection, owner: Connection, ada: int, bob: int, branch: int) -> None:
    third = call(owner, "create_ledger", "Third")["ledger_id"]
    eve, zoe = open_account(app, ledger_id=branch), open_account(app, ledger_id=third)
    send(app, (ada, 1), (bob, branch), 100, idempotency_key="key")
    for credit, amount, field in (
        ((bob, branch), 101, "amount_minor"),
        ((eve, branch), 100, "credit_account_id"),
        ((zoe, third), 100, "credit_ledger_id"),
    ):
        with raises("TLKEY", "idempotency_key_reused", field):
            send(app, (ada, 1), credit, amount, idempotency_key="key")
    with raises("TLKEY", "idempotency_key_reused", "transaction_type"):
        call(app, "debit", ada, 100, idempotency_key="key")
    call(app, "credit", bob, 5, "key", ledger_id=branch)
    assert balance(app, ada, 1) == 900
    assert violations(app) == []


def test_a_malformed_transfer_raises(app: Connection, ada: int, bob: int, branch: int) -> None:
    for debit, credit, amount, error in (
        ((ada, 1), (bob, branch), 0, ("TLAMT", "invalid_amount", "amount_minor")),
        ((99, 1), (bob, branch), 5, ("TLACC", "account_not_found", "debit_account_id")),
        ((bob, 1), (bob, branch), 5, ("TLACC", "account_not_found", "debit_account_id")),
        ((ada, 1), (ada, branch), 5, ("TLACC", "account_not_found", "credit_account_id")),
        ((ada, 1), (bob, 99), 5, ("TLACC", "account_not_found", "credit_account_id")),
    ):
        with raises(*error):
            send(app, debit, credit, amount)
    for named in ({"idempotency_key": " "}, {"description": "x" * 501}):
        with raises("TLARG", "invalid_argument", next(iter(named))):
            send(app, (ada, 1), (bob, branch), 5, **named)
    assert (balance(app, ada, 1), balance(app, bob, branch)) == (1000, 500)
    assert violations(app) == []
