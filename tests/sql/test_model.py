"""The functions against a small model of a bank, step by step, with random calls of every kind.

Each example has a ledger of its own in one database. PGTELLER_MODEL_STEPS is the number of steps in all (20,000 when
unset): the long run is by hand. The run prints its seed, PGTELLER_MODEL_SEED repeats it.
"""

import os
import secrets
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import Bank, Connection
from tests.helpers import Row, call, call_all, raises

MAX = 2**53 - 1
STEPS_AN_EXAMPLE = 50
EXAMPLES = max(1, int(os.environ.get("PGTELLER_MODEL_STEPS", "20000")) // STEPS_AN_EXAMPLE)

amounts = st.one_of(st.integers(1, 200), st.sampled_from([1, MAX, MAX - 1]), st.sampled_from([0, -1, 2**53]))
keys = st.one_of(st.none(), st.sampled_from([f"key-{number}" for number in range(8)]))
picks = st.integers(0, 7)


@dataclass
class Account:
    """What the model knows of an account."""

    currency: str
    limit: int | None
    status: str = "open"
    balance: int = 0
    version: int = 0
    # Of a striped account: the stripe that our connection posts to, and what each row has. Own row: 0.
    stripe: int = 0
    shares: dict[int, int] = field(default_factory=dict)
    lines: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def share(self) -> int:
        """Return what the row has that our postings change: its own bound is what they must keep."""
        return self.shares.get(self.stripe, 0)

    @property
    def after(self) -> tuple[int | None, int | None]:
        """Return balance and version as a posting tells them."""
        return (None, None) if self.stripe else (self.balance, self.version)

    def post(self, amount: int) -> None:
        self.shares[self.stripe] = self.share + amount
        self.balance += amount
        self.version += 1
        self.lines.append((self.version, amount, self.balance))


@dataclass(frozen=True)
class Request:
    """What a retry must repeat."""

    kind: str
    debit: int
    credit: int
    amount: int


@dataclass
class Model:
    """A bank in a few lines: the order of its checks is the one that sql/README.md promises."""

    accounts: dict[int, Account] = field(default_factory=dict)
    recorded: dict[str, tuple[Request, Row]] = field(default_factory=dict)

    def post(self, request: Request, key: str | None) -> Row | str:
        """Return the expected columns of the posting, or the code that is raised."""
        if not 1 <= request.amount <= MAX:
            return "invalid_amount"
        if request.debit not in self.accounts or request.credit not in self.accounts:
            return "account_not_found"
        if key in self.recorded:
            first, outcome = self.recorded[key]
            return {**outcome, "replayed": True} if first == request else "idempotency_key_reused"
        outcome = self._decide(request)
        if key is not None:
            self.recorded[key] = request, outcome
        return outcome

    def _decide(self, request: Request) -> Row:
        debit, credit = self.accounts[request.debit], self.accounts[request.credit]
        code = self._rejection(request, debit, credit)
        if code is None:
            debit.post(-request.amount)
            credit.post(request.amount)
        posted = code is None
        return {
            "transaction_status": "success" if posted else "failure",
            "transaction_type": request.kind,
            "failure_code": code,
            "amount_minor": request.amount,
            "debit_account_id": request.debit,
            "credit_account_id": request.credit,
            "debit_balance_after_minor": debit.after[0] if posted else None,
            "credit_balance_after_minor": credit.after[0] if posted else None,
            "debit_version": debit.after[1] if posted else None,
            "credit_version": credit.after[1] if posted else None,
            "replayed": False,
        }

    def _rejection(self, request: Request, debit: Account, credit: Account) -> str | None:
        statuses = debit.status, credit.status
        if debit is credit:
            return "same_account"
        if "closed" in statuses:
            return "account_closed"
        if "frozen" in statuses:
            return "account_frozen"
        if debit.currency != credit.currency:
            return "currency_mismatch"
        if debit.limit is not None and debit.balance + debit.limit < request.amount:
            return "insufficient_funds"
        if debit.share - request.amount < -MAX or credit.share + request.amount > MAX:
            return "balance_overflow"
        return None


class BankMachine(RuleBasedStateMachine):
    """Every step is a call, compared with the model's answer."""

    app: Connection
    owner: Connection

    @initialize()
    def open_ledger(self) -> None:
        self.ledger_id = call(self.owner, "create_ledger", "Model")["ledger_id"]
        self.model = Model()
        self.ids: list[int] = []
        self.settlements: dict[str, int] = {}

    def pick(self, number: int) -> int:
        """Return an account's id, mostly; an unknown one when there are fewer."""
        return self.ids[number] if number < len(self.ids) else 10**15 + number

    @rule(currency=st.sampled_from(["EUR", "EUR", "JPY"]), limit=st.sampled_from([0, 0, 100, None]))
    @precondition(lambda self: len(self.ids) < 6)
    def open_account(self, currency: str, limit: int | None) -> None:
        opened = call(self.app, "open_account", "Ada", currency, overdraft_limit_minor=limit, ledger_id=self.ledger_id)
        self.ids.append(opened["account_id"])
        self.model.accounts[opened["account_id"]] = Account(currency, limit)
        if currency not in self.settlements:
            row = self.app.execute(
                "select account_id from bank.account_detail"
                " where account_type = 'asset' and ledger_id = %s and currency = %s",
                [self.ledger_id, currency],
            ).fetchone()
            assert row is not None
            self.settlements[currency] = row["account_id"]
            self.model.accounts[row["account_id"]] = Account(currency, None, stripe=self.stripe(16))

    @rule(account=picks, amount=amounts, key=keys)
    def credit(self, account: int, amount: int, key: str | None) -> None:
        account_id = self.pick(account)
        self.compare(Request("credit", self.settlement(account_id), account_id, amount), key, "credit", account_id)

    @rule(account=picks, amount=amounts, key=keys)
    def debit(self, account: int, amount: int, key: str | None) -> None:
        account_id = self.pick(account)
        self.compare(Request("debit", account_id, self.settlement(account_id), amount), key, "debit", account_id)

    @rule(account=picks, beneficiary=picks, amount=amounts, key=keys)
    def debit_to_beneficiary(self, account: int, beneficiary: int, amount: int, key: str | None) -> None:
        debit, credit = self.pick(account), self.pick(beneficiary)
        request = Request("debit", debit, credit, amount)
        self.compare(request, key, "debit", debit, beneficiary_account_id=credit)

    @rule(debit=picks, credit=picks, amount=amounts, key=keys)
    def transfer(self, debit: int, credit: int, amount: int, key: str | None) -> None:
        request = Request("transfer", self.pick(debit), self.pick(credit), amount)
        self.compare(request, key, "transfer", request.debit, credit_account_id=request.credit)

    @rule(account=picks, status=st.sampled_from(["open", "open", "frozen", "closed"]))
    @precondition(lambda self: self.ids)
    def set_status(self, account: int, status: str) -> None:
        account_id = self.ids[account % len(self.ids)]
        self.owner.execute(
            "update bank.account set account_status = %s where bank._account_of(account_id) = %s", [status, account_id]
        )
        self.model.accounts[account_id].status = status

    @rule(account=picks, stripes=st.sampled_from([1, 2, 3, 16, 64]))
    @precondition(lambda self: self.ids)
    def stripe_account(self, account: int, stripes: int) -> None:
        accounts = self.model.accounts
        account_id = sorted(accounts)[account % len(accounts)]
        if accounts[account_id].limit is None:
            call(self.app, "stripe_account", account_id, stripes, self.ledger_id)
            accounts[account_id].stripe = self.stripe(stripes)
        else:
            with raises("TLLIM", "account_limited", "account_id"):
                call(self.app, "stripe_account", account_id, stripes, self.ledger_id)

    def stripe(self, stripes: int) -> int:
        """Return which of so many stripes our connection posts to when nobody holds any."""
        return self.app.info.backend_pid % stripes + 1

    def settlement(self, account_id: int) -> int:
        account = self.model.accounts.get(account_id)
        return self.settlements[account.currency] if account else 0

    def compare(self, request: Request, key: str | None, function: str, *arguments: int, **named: Any) -> None:
        """Post, and expect the model's outcome: the same columns, or the same code raised."""
        expected = self.model.post(request, key)
        named |= {"amount_minor": request.amount, "idempotency_key": key, "ledger_id": self.ledger_id}
        if isinstance(expected, str):
            with pytest.raises(psycopg.Error) as caught:
                call(self.app, function, *arguments, **named)
            assert caught.value.diag.message_primary == expected
            return
        actual = call(self.app, function, *arguments, **named)
        assert {name: actual[name] for name in expected} == expected
        assert call(self.app, "get_transaction", actual["transaction_id"], self.ledger_id) == {
            **actual,
            "replayed": False,
        }

    @invariant()
    def balances_are_those_of_the_model(self) -> None:
        rows = self.app.execute(
            "select account_id, balance_minor, version from bank.account_detail where ledger_id = %s",
            [self.ledger_id] if hasattr(self, "ledger_id") else [0],
        ).fetchall()
        if rows:
            assert {row["account_id"]: (row["balance_minor"], row["version"]) for row in rows} == {
                account_id: (account.balance, account.version) for account_id, account in self.model.accounts.items()
            }

    def teardown(self) -> None:
        if not hasattr(self, "ledger_id"):
            return
        for account_id, account in self.model.accounts.items():
            lines = call_all(self.app, "statement", account_id, None, 1000, self.ledger_id)
            found = [(line["version"], line["amount_minor"], line["balance_after_minor"]) for line in lines]
            assert found == account.lines[::-1]
        assert self.app.execute("select * from bank.verify(%s)", [self.ledger_id]).fetchall() == []


@pytest.mark.timeout(0)
def test_the_functions_behave_as_the_model(bank: Bank) -> None:
    with bank.connect() as app, bank.connect("bank_owner") as owner:
        BankMachine.app, BankMachine.owner = app, owner
        number = int(os.environ.get("PGTELLER_MODEL_SEED") or secrets.randbits(32))
        print(f"PGTELLER_MODEL_SEED={number}")
        seed(number)(BankMachine)
        run_state_machine_as_test(
            BankMachine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS_AN_EXAMPLE,
                deadline=None,
                print_blob=True,
                derandomize=False,  # CI is to try other examples each time
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
