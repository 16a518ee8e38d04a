"""Explain: what a transfer would do, told by what does it, and nothing recorded."""

import datetime as dt

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Bank, Connection
from tests.helpers import Row, authorise, call, count, expire, open_account, raises, violations

CHECKS = [
    "same_account", "account_closed", "account_frozen", "currency_mismatch", "insufficient_funds", "balance_overflow",
    "balance_below_minimum", "balance_above_maximum", "transaction_limit_exceeded",
    *[f"{kind}_{what}_exceeded" for kind in ("day", "week", "month") for what in ("amount", "count")],
]  # fmt: skip
LIMITS = [
    (0, "day", 200, 4),
    (0, "transaction", 90, None),
    (1, "month", None, 2),
    (5, "maximum_balance", 350, None),
    (5, "minimum_balance", 250, None),
]


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 1000)


@pytest.fixture
def bob(app: Connection) -> int:
    return open_account(app)


def outcomes(explained: Row) -> list[str]:
    assert [check["code"] for check in explained["checks"]] == CHECKS
    return [check["outcome"] for check in explained["checks"]]


def test_a_transfer_that_would_pass_passes_every_check(app: Connection, ada: int, bob: int) -> None:
    explained = call(app, "explain_transfer", ada, bob, 300)
    assert (explained["verdict"], explained["failure_code"], explained["currency"]) == ("success", None, "EUR")
    assert explained["debit_available_minor"] == 1000
    assert (explained["debit_balance_after_minor"], explained["credit_balance_after_minor"]) == (700, 300)
    assert outcomes(explained) == ["passed"] * len(CHECKS)
    assert explained["limits"] == []


def test_the_checks_after_the_failed_one_are_not_reached(app: Connection, ada: int, bob: int) -> None:
    explained = call(app, "explain_transfer", ada, bob, 1001)
    assert (explained["verdict"], explained["failure_code"]) == ("failure", "insufficient_funds")
    assert explained["failure_detail"] == {"account_id": ada, "needed_minor": 1001, "available_minor": 1000}
    assert (explained["debit_balance_after_minor"], explained["credit_balance_after_minor"]) == (None, None)
    assert outcomes(explained) == ["passed"] * 4 + ["failed"] + ["not_reached"] * 10


def test_the_limits_of_both_accounts_are_told(app: Connection, ada: int, bob: int) -> None:
    call(app, "set_limit", ada, "day", 500, 3)
    call(app, "set_limit", bob, "maximum_balance", 400)
    call(app, "transfer", ada, bob, 100)
    explained = call(app, "explain_transfer", ada, bob, 350)
    assert explained["failure_code"] == "balance_above_maximum"
    assert [(limit["account_id"], limit["limit_kind"], limit["used_minor"], limit["used_count"])
            for limit in explained["limits"]] == [(ada, "day", 100, 1), (bob, "maximum_balance", 0, 0)]  # fmt: skip


def test_nothing_is_recorded(app: Connection, owner: Connection, ada: int, bob: int) -> None:
    call(app, "set_limit", ada, "day", 500, 3)
    expire(owner, authorise(app, ada, 5, bob, expires_at=dt.datetime.now(dt.UTC) + dt.timedelta(days=1)))

    def rows() -> list[Row]:
        tables = "transaction", "entry", "account_limit", "account", "hold"
        read = "select to_jsonb(t)::text as row from bank.{} as t order by 1"
        return [row for table in tables for row in owner.execute(read.format(table).encode())]

    before = rows()
    for amount in (1, 501, 99_999):
        call(app, "explain_transfer", ada, bob, amount)
    assert rows() == before
    assert violations(app) == []


def test_a_caller_s_own_transaction_goes_on_and_its_locks_are_free(
    app: Connection, bank: Bank, ada: int, bob: int
) -> None:
    with bank.connect(autocommit=False) as other:
        call(other, "explain_transfer", ada, bob, 10)
        app.execute("set lock_timeout = '5s'")
        assert call(app, "transfer", ada, bob, 990)["failure_code"] is None
        assert call(other, "explain_transfer", ada, bob, 11)["failure_code"] == "insufficient_funds"
        other.commit()
    assert violations(app) == []


def test_a_malformed_question_raises_what_the_transfer_would(app: Connection, owner: Connection, ada: int) -> None:
    transactions = count(owner, "transaction")
    for arguments, error in (
        ((ada, 99, 0), ("TLAMT", "invalid_amount", "amount_minor")),
        ((ada, 99, "NaN"), ("TLAMT", "invalid_amount", "amount_minor")),
        ((ada, 99, 5), ("TLACC", "account_not_found", "credit_account_id")),
        ((99, ada, 5), ("TLACC", "account_not_found", "debit_account_id")),
        ((None, ada, 5), ("TLARG", "invalid_argument", "debit_account_id")),
    ):
        with raises(*error):
            call(app, "explain_transfer", *arguments)
    assert count(owner, "transaction") == transactions


steps = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 7), st.one_of(st.integers(1, 150), st.just(2**53 - 1))),
    min_size=1,
    max_size=20,
)


def test_the_verdict_is_what_the_transfer_then_does(bank: Bank) -> None:
    with bank.connect() as app, bank.connect("bank_owner") as owner:

        @settings(
            max_examples=60, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck)
        )
        @given(steps=steps)
        def compare(steps: list[tuple[int, int, int]]) -> None:
            ledger_id = call(owner, "create_ledger", "Explain")["ledger_id"]
            accounts = [
                open_account(app, balance, currency, overdraft_limit_minor=overdraft, ledger_id=ledger_id)
                for currency, overdraft, balance in
                [("EUR", 0, 500), ("EUR", 100, 400), ("EUR", None, 0), ("EUR", 0, 50), ("JPY", 50, 0), ("EUR", 0, 300),
                 ("EUR", 0, 0), ("EUR", 0, 200)]
            ]  # fmt: skip
            call(app, "stripe_account", accounts[2], 2, ledger_id)
            call(app, "freeze_account", accounts[3], credits=False, ledger_id=ledger_id)
            call(app, "close_account", accounts[6], ledger_id=ledger_id)
            call(app, "authorise", accounts[7], 150, ledger_id=ledger_id)
            for number, kind, most, times in LIMITS:
                call(app, "set_limit", accounts[number], kind, most, times, ledger_id=ledger_id)
            for debit, credit, amount in steps:
                request = accounts[debit], accounts[credit], amount
                explained = call(app, "explain_transfer", *request, ledger_id=ledger_id)
                posted = call(app, "transfer", *request, ledger_id=ledger_id)
                assert explained["verdict"] == posted["transaction_status"]
                for name in ("failure_code", "failure_detail", "currency", "debit_balance_after_minor",
                             "credit_balance_after_minor"):  # fmt: skip
                    assert explained[name] == posted[name]
                failed = [check["code"] for check in explained["checks"] if check["outcome"] == "failed"]
                assert failed == ([posted["failure_code"]] if posted["failure_code"] else [])
            assert app.execute("select * from bank.verify(%s)", [ledger_id]).fetchall() == []

        compare()
