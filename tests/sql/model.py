"""A bank in plain Python: what the headers in sql/api and the order in sql/errors.toml promise, without any SQL.

Its functions have the names and arguments of those in schema bank, so that a test makes the same call of both. A
malformed call raises Refused; everything else returns what is to be recorded. Only the database knows which ids it
will give: whoever calls both writes them into what was returned (Transaction.transaction_id, Account.account_id).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX = 2**53 - 1
PAST = datetime(2001, 1, 1, tzinfo=UTC)
EXPONENTS = {"EUR": 2, "JPY": 0}
WINDOWS = ("day", "week", "month")
LIMIT_KINDS = ("minimum_balance", "maximum_balance", "transaction", *WINDOWS)
STRIPES_MAX = 64
BOOK_STRIPES = 16
LEGS_MIN = 2

Row = dict[str, Any]
After = tuple[int | None, int | None]  # balance and version
Item = tuple[str, int | None, int | None, int, str | None]  # kind, debit, credit, amount, key


class Refused(Exception):
    """A malformed call: nothing is recorded."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Limit:
    """A limit of an account. Used counts the window of today: a test does not last until tomorrow."""

    amount: int | None
    count: int | None
    used_minor: int = 0
    used_count: int = 0

    def use(self, amount: int, count: int) -> None:
        """Count a debit; what is used saturates at the end of the exact range."""
        self.used_minor = min(self.used_minor + amount, MAX)
        self.used_count += count


@dataclass
class Hold:
    """Money that is reserved."""

    amount: int
    tolerance: int
    expires_at: datetime | None
    captured: int = 0
    status: str = "open"

    @property
    def left(self) -> int:
        return max(self.amount - self.captured, 0)

    @property
    def held(self) -> int:
        return self.left if self.status == "open" else 0

    def excess(self, amount: int) -> int:
        """Return what a capture of this amount takes beyond what is left of the hold's own."""
        return amount - min(amount, self.left)

    def expire(self) -> None:
        """Let the deadline pass."""
        self.expires_at = PAST
        self.status = "expired"


@dataclass(eq=False)
class Account:
    """What the model knows of an account."""

    account_id: int | None
    ledger_id: int
    currency: str
    overdraft: int | None
    status: str = "open"
    balance: int = 0
    version: int = 0
    holds: list[Hold] = field(default_factory=list)
    limits: dict[str, Limit] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    lines: list[tuple[int, int, int]] = field(default_factory=list)
    # Of a striped account: the stripe that our connection posts to, and what each row has. Own row: 0.
    stripes: int = 0
    stripe: int = 0
    shares: dict[int, int] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return sum(hold.held for hold in self.holds)

    @property
    def available(self) -> int | None:
        """Return what may be debited; None: anything."""
        return None if self.overdraft is None else self.balance - self.held + self.overdraft

    @property
    def share(self) -> int:
        """Return what the row has that our postings change: its own exact range is what they must keep."""
        return self.shares.get(self.stripe, 0)

    @property
    def after(self) -> After:
        """Return balance and version as a posting tells them."""
        return (None, None) if self.stripes else (self.balance, self.version)

    def post(self, amount: int) -> None:
        self.shares[self.stripe] = self.share + amount
        self.balance += amount
        self.version += 1
        self.lines.append((self.version, amount, self.balance))

    def use_limits(self, amount: int, count: int) -> None:
        for kind in WINDOWS:
            if kind in self.limits:
                self.limits[kind].use(amount, count)

    def row(self) -> Row:
        return {
            "account_id": self.account_id,
            "ledger_id": self.ledger_id,
            "currency": self.currency,
            "account_status": self.status,
            "balance_minor": self.balance,
            "held_minor": self.held,
            "available_balance_minor": self.available,
            "overdraft_limit_minor": self.overdraft,
            "version": self.version,
            "stripes": self.stripes,
        }


Legs = tuple[tuple[Account, int], ...]


@dataclass(eq=False)
class Transaction:
    """A recorded attempt. Without legs it moves the amount from debit to credit.

    asked: what a retry must ask again in place of the amount, which may be what came of the question.
    """

    kind: str
    ledger_id: int
    debit: Account
    credit: Account
    amount: int
    original: "Transaction | None" = None
    legs: Legs | None = None
    rate: Decimal | None = None
    counterpart: Account | None = None  # of a transfer to another ledger: the account on the other side
    asked: tuple[object, ...] | None = None
    key: str | None = None
    code: str | None = None
    hold: Hold | None = None
    residue: Fraction | None = None
    debit_after: After = (None, None)
    credit_after: After = (None, None)
    legs_after: list[After] = field(default_factory=list)
    transaction_id: int | None = None
    reversed_minor: int = 0

    @property
    def movements(self) -> Legs:
        return self.legs or ((self.debit, -self.amount), (self.credit, self.amount))

    def spent(self, amount: int) -> tuple[int, int]:
        """Return the amount and the count that a debit of this amount uses of windows.

        A capture was counted when it was authorised: it uses only what it takes beyond that.
        """
        if self.kind == "reversal":
            return 0, 0
        if self.kind == "capture":
            assert self.original
            assert self.original.hold
            return self.original.hold.excess(amount), 0
        return amount, 1

    @property
    def request(self) -> tuple[object, ...]:
        """Return what a retry must repeat: what was asked, not what came of it."""
        # The other side of a transfer to another ledger is written into it afterwards.
        original = None if self.kind == "cross_ledger" else self.original
        asked = (self.amount,) if self.asked is None else self.asked
        return self.kind, self.debit, self.credit, asked, original, self.legs, self.rate

    def row(self, *, replayed: bool = False) -> Row:
        return {
            "transaction_id": self.transaction_id,
            "transaction_type": self.kind,
            "transaction_status": "failure" if self.code else "success",
            "failure_code": self.code,
            "amount_minor": self.amount,
            "currency": self.debit.currency,
            "debit_account_id": self.debit.account_id,
            "credit_account_id": self.credit.account_id,
            "debit_balance_after_minor": self.debit_after[0],
            "credit_balance_after_minor": self.credit_after[0],
            "debit_version": self.debit_after[1],
            "credit_version": self.credit_after[1],
            "idempotency_key": self.key,
            "replayed": replayed,
            "ledger_id": self.ledger_id,
            "original_transaction_id": self.original.transaction_id if self.original else None,
            "counterpart_ledger_id": self.counterpart.ledger_id if self.counterpart else None,
            "exchange_rate": self.rate,
            "exchange_residue_minor": self.residue,
            "legs": self.legs and [self._leg(number) for number in range(len(self.legs))],
        }

    def _leg(self, number: int) -> Row:
        assert self.legs
        account, amount = self.legs[number]
        balance, version = self.legs_after[number] if self.legs_after else (None, None)
        leg = {"account_id": account.account_id, "amount_minor": amount, "currency": account.currency}
        return leg if version is None else {**leg, "version": version, "balance_after_minor": balance}


@dataclass(frozen=True)
class Outcome:
    """What a posting returns: what was recorded, now or when its key was used first."""

    transaction: Transaction
    replayed: bool = False

    def row(self) -> Row:
        return self.transaction.row(replayed=self.replayed)


@dataclass
class Bank:
    """Every function of the bank that changes something. stripe_choice: whose stripe our connection posts to."""

    stripe_choice: int
    accounts: list[Account] = field(default_factory=list)
    books: dict[tuple[int, str, str], Account] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    recorded: dict[tuple[int, str | None], Transaction] = field(default_factory=dict)
    by_id: dict[tuple[int, int | None], Transaction] = field(default_factory=dict)
    indexed: int = 0

    # Accounts

    def open_account(self, currency: str, overdraft_limit_minor: int | None, ledger_id: int) -> Account:
        self._book("settlement", currency, ledger_id)
        account = Account(None, ledger_id, currency, overdraft_limit_minor)
        self.accounts.append(account)
        return account

    def freeze_account(
        self, account_id: int, ledger_id: int, reason: str | None, *, debits: bool, credits: bool
    ) -> Account:
        if not (debits or credits):
            raise Refused("invalid_argument")
        status = "frozen" if debits and credits else "debits_frozen" if debits else "credits_frozen"
        return self._change_status(account_id, ledger_id, reason, ("freeze", status), leaves_not=["closed"])

    def unfreeze_account(self, account_id: int, ledger_id: int, reason: str | None) -> Account:
        return self._change_status(account_id, ledger_id, reason, ("unfreeze", "open"), leaves_not=["closed"])

    def reopen_account(self, account_id: int, ledger_id: int, reason: str | None) -> Account:
        frozen = ["frozen", "debits_frozen", "credits_frozen"]
        return self._change_status(account_id, ledger_id, reason, ("reopen", "open"), leaves_not=frozen)

    def close_account(self, account_id: int, ledger_id: int, reason: str | None) -> Account:
        return self._change_status(account_id, ledger_id, reason, ("close", "closed"), leaves_not=[])

    def _change_status(
        self, account_id: int, ledger_id: int, reason: str | None, change_to: tuple[str, str], leaves_not: list[str]
    ) -> Account:
        change, status = change_to
        _check_text(reason)
        account = self._account(account_id, ledger_id)
        if change == "close" and account in self.books.values():
            raise Refused("book_account")
        if change == "close" and (account.balance or account.held):
            raise Refused("account_not_empty")
        if account.status in leaves_not:
            raise Refused("account_state")
        if account.status != status:
            account.status = status
            account.changes.append(change)
        return account

    def set_limit(
        self, account_id: int, limit_kind: str, amount_max_minor: int | None, count_max: int | None, ledger_id: int
    ) -> Account:
        lowest = -MAX if limit_kind == "minimum_balance" else 0
        if amount_max_minor is not None and not lowest <= amount_max_minor <= MAX:
            raise Refused("invalid_argument")
        if count_max is not None and (limit_kind not in WINDOWS or count_max < 0):
            raise Refused("invalid_argument")
        account = self._account(account_id, ledger_id)
        if account.stripes:
            raise Refused("account_striped")
        free = account.balance - account.held
        if amount_max_minor is not None and (
            (limit_kind == "overdraft" and free < -amount_max_minor)
            or (limit_kind == "minimum_balance" and free < amount_max_minor)
            or (limit_kind == "maximum_balance" and account.balance > amount_max_minor)
        ):
            raise Refused("limit_passed_already")
        limit = account.limits.get(limit_kind)
        before = account.overdraft if limit_kind == "overdraft" else (limit and limit.amount, limit and limit.count)
        after = amount_max_minor if limit_kind == "overdraft" else (amount_max_minor, count_max)
        if before != after:
            account.changes.append(f"{limit_kind}_limit")
        if limit_kind == "overdraft":
            account.overdraft = amount_max_minor
        elif amount_max_minor is None and count_max is None:
            account.limits.pop(limit_kind, None)
        elif limit:
            limit.amount, limit.count = amount_max_minor, count_max
        else:
            account.limits[limit_kind] = Limit(amount_max_minor, count_max)
        return account

    def stripe_account(self, account_id: int, stripes: int, ledger_id: int) -> Account:
        if not 1 <= stripes <= STRIPES_MAX:
            raise Refused("invalid_argument")
        account = self._account(account_id, ledger_id)
        if account.overdraft is not None or account.held or account.limits:
            raise Refused("account_limited")
        self._stripe(account, stripes)
        return account

    def _stripe(self, account: Account, stripes: int) -> None:
        account.stripes = stripes
        account.stripe = self.stripe_choice % stripes + 1

    # Postings between two accounts

    def credit(self, account_id: int, amount_minor: int, idempotency_key: str | None, ledger_id: int) -> Outcome:
        return self._post_pair(("credit", None, account_id, amount_minor, idempotency_key), ledger_id)

    def debit(
        self,
        account_id: int,
        amount_minor: int,
        beneficiary_account_id: int | None,
        idempotency_key: str | None,
        ledger_id: int,
    ) -> Outcome:
        return self._post_pair(("debit", account_id, beneficiary_account_id, amount_minor, idempotency_key), ledger_id)

    def transfer(
        self,
        debit_account_id: int,
        credit_account_id: int,
        amount_minor: int,
        idempotency_key: str | None,
        ledger_id: int,
    ) -> Outcome:
        return self._post_pair(
            ("transfer", debit_account_id, credit_account_id, amount_minor, idempotency_key), ledger_id
        )

    def explain_transfer(
        self, debit_account_id: int, credit_account_id: int, amount_minor: int, ledger_id: int
    ) -> tuple[str, str | None]:
        """Return verdict and failure_code; nothing is recorded."""
        _check_amount(amount_minor)
        debit, credit = self._account(debit_account_id, ledger_id), self._account(credit_account_id, ledger_id)
        code = self._rejection(Transaction("transfer", ledger_id, debit, credit, amount_minor))
        return "failure" if code else "success", code

    def _post_pair(self, item: Item, ledger_id: int) -> Outcome:
        kind, debit_id, credit_id, amount, key = item
        _check_amount(amount)
        _check_text(key)
        if kind == "credit":
            credit = self._account(credit_id, ledger_id)
            debit = self._book("settlement", credit.currency, ledger_id)
        else:
            debit = self._account(debit_id, ledger_id)
            credit = (
                self._book("settlement", debit.currency, ledger_id)
                if credit_id is None
                else self._account(credit_id, ledger_id)
            )
        return self._record(Transaction(kind, ledger_id, debit, credit, amount), key)

    def post(
        self,
        *,
        transaction_types: list[str],
        debit_account_ids: list[int | None],
        credit_account_ids: list[int | None],
        amounts_minor: list[int],
        idempotency_keys: list[str | None],
        groups: list[int | None],
        ledger_id: int,
        atomic: bool,
    ) -> list[Outcome | str]:
        """Return the outcome of each item, or the code of one that is not recorded."""
        if atomic:
            groups = [1] * len(groups)
        columns = (transaction_types, debit_account_ids, credit_account_ids, amounts_minor, idempotency_keys)
        items = list(zip(*columns, strict=True))
        outcomes: list[Outcome | str] = []
        while len(outcomes) < len(items):
            first = last = len(outcomes)
            while last + 1 < len(items) and groups[first] is not None and groups[last + 1] == groups[first]:
                last += 1
            outcomes += self._post_group(items[first : last + 1], ledger_id, linked=groups[first] is not None)
        return outcomes

    def _post_group(self, items: list[Item], ledger_id: int, *, linked: bool) -> list[Outcome | str]:
        before = self.savepoint()
        outcomes: list[Outcome | str] = []
        for item in items:
            try:
                outcome: Outcome | str = self._post_pair(item, ledger_id)
            except Refused as refused:
                outcome = refused.code
            outcomes.append(outcome)
            if linked and (isinstance(outcome, str) or outcome.transaction.code):
                self.roll_back(before)
                if isinstance(outcome, Outcome) and not outcome.replayed:
                    self._keep(outcome.transaction)
                return [outcome if number == len(outcomes) - 1 else "batch_aborted" for number in range(len(items))]
        return outcomes

    def sweep(
        self,
        debit_account_id: int,
        credit_account_id: int,
        at_most_minor: int | None,
        idempotency_key: str | None,
        ledger_id: int,
    ) -> Outcome:
        most = MAX if at_most_minor is None else _check_amount(at_most_minor)
        debit, credit = self._account(debit_account_id, ledger_id), self._account(credit_account_id, ledger_id)
        if debit.stripes:
            raise Refused("account_striped")
        _check_text(idempotency_key)
        free = min(debit.balance - debit.held, most)
        amount = _amount_or(None, max(free, 0), most)
        transfer = Transaction("transfer", ledger_id, debit, credit, amount, asked=("sweep", at_most_minor))
        return self._record(transfer, idempotency_key, prior="nothing_to_sweep" if free <= 0 else None)

    # Holds

    def authorise(
        self,
        *,
        account_id: int,
        amount_minor: int,
        beneficiary_account_id: int | None,
        tolerance_minor: int,
        expires_at: datetime | None,
        idempotency_key: str | None,
        ledger_id: int,
    ) -> Outcome:
        if not 0 <= tolerance_minor <= MAX:
            raise Refused("invalid_argument")
        if expires_at == PAST and (ledger_id, idempotency_key) not in self.recorded:
            raise Refused("invalid_argument")
        _check_amount(amount_minor)
        _check_text(idempotency_key)
        debit = self._account(account_id, ledger_id)
        credit = (
            self._book("settlement", debit.currency, ledger_id)
            if beneficiary_account_id is None
            else self._account(beneficiary_account_id, ledger_id)
        )
        if debit.stripes:
            raise Refused("account_striped")
        asked = (amount_minor, tolerance_minor, expires_at)
        outcome = self._record(
            Transaction("hold", ledger_id, debit, credit, amount_minor, asked=asked), idempotency_key
        )
        transaction = outcome.transaction
        if transaction.code is None and not outcome.replayed:
            transaction.hold = Hold(amount_minor, tolerance_minor, expires_at)
            debit.holds = [*(hold for hold in debit.holds if hold.status == "open"), transaction.hold]
        return outcome

    def capture(
        self, hold_id: int, amount_minor: int | None, idempotency_key: str | None, ledger_id: int, *, final: bool
    ) -> Outcome:
        authorised, hold = self._hold(hold_id, ledger_id)
        amount = _amount_or(amount_minor, hold.left, hold.amount)
        _check_text(idempotency_key)
        prior = None
        if hold.status != "open":
            prior = "hold_not_open"
        elif hold.captured + amount > hold.amount + hold.tolerance:
            prior = "capture_exceeds_hold"
        ends = final or hold.captured + amount >= hold.amount
        outcome = self._record(
            Transaction(
                "capture",
                ledger_id,
                authorised.debit,
                authorised.credit,
                amount,
                authorised,
                asked=(amount_minor, final),
            ),
            idempotency_key,
            prior=prior,
            released=hold.left if ends else amount,
        )
        if outcome.transaction.code is None and not outcome.replayed:
            hold.captured += amount
            hold.status = "captured" if ends else "open"
        return outcome

    def void(self, hold_id: int, idempotency_key: str | None, ledger_id: int) -> Outcome:
        authorised, hold = self._hold(hold_id, ledger_id)
        _check_text(idempotency_key)
        amount = _amount_or(None, hold.held, hold.amount)
        outcome = self._record(
            Transaction("void", ledger_id, authorised.debit, authorised.credit, amount, authorised, asked=()),
            idempotency_key,
            prior=None if hold.status == "open" else "hold_not_open",
        )
        if outcome.transaction.code is None and not outcome.replayed:
            hold.status = "voided"
        return outcome

    def _hold(self, hold_id: int, ledger_id: int) -> tuple[Transaction, Hold]:
        transaction = self._transaction(hold_id, ledger_id)
        if transaction is None or transaction.hold is None:
            raise Refused("hold_not_found")
        return transaction, transaction.hold

    def end_hold(self, hold_id: int, ledger_id: int) -> tuple[Account, Hold]:
        """Let an open hold expire, and return it with the account that has its money back."""
        transaction, hold = self._hold(hold_id, ledger_id)
        assert hold.status == "open"
        hold.status = "expired"
        return transaction.debit, hold

    # Reversals

    def reverse(
        self, transaction_id: int, amount_minor: int | None, idempotency_key: str | None, ledger_id: int, *, force: bool
    ) -> Outcome:
        original = self._transaction(transaction_id, ledger_id)
        if original is None:
            raise Refused("transaction_not_found")
        if original.code or original.kind in ("hold", "void", "reversal", "cross_ledger"):
            raise Refused("not_reversible")
        left = original.amount - original.reversed_minor
        amount = _amount_or(amount_minor, left, original.amount)
        _check_text(idempotency_key)
        whole = not original.legs or amount_minor in (None, original.amount)
        prior = None if whole and amount <= left else "reversal_exceeds_original"
        reversal = (
            _compound("reversal", ledger_id, tuple((account, -part) for account, part in original.legs), original)
            if original.legs
            else Transaction("reversal", ledger_id, original.credit, original.debit, amount, original)
        )
        reversal.asked = (amount_minor, force)
        if not force or prior or (ledger_id, idempotency_key) in self.recorded:
            outcome = self._record(reversal, idempotency_key, prior=prior)
        else:
            outcome = self._force(reversal, idempotency_key)
        if outcome.transaction.code is None and not outcome.replayed:
            original.reversed_minor += amount
        return outcome

    def _force(self, reversal: Transaction, key: str | None) -> Outcome:
        """Raise the overdraft limits to what the reversal needs, if it is posted then."""
        overdrafts = {}
        for account, net in _nets(reversal.movements).items():
            needed = -net - account.balance + account.held
            if net < 0 and account.overdraft is not None and account.overdraft < needed <= MAX:
                overdrafts[account] = account.overdraft
                account.overdraft = needed
        outcome = self._record(reversal, key)
        for account, overdraft in overdrafts.items():
            if outcome.transaction.code:
                account.overdraft = overdraft
            else:
                account.changes.append("overdraft_forced")
        return outcome

    # Several legs, currencies, ledgers

    def post_legs(
        self,
        account_ids: list[int],
        amounts_minor: list[int],
        conditions: list[dict[str, int]],
        idempotency_key: str | None,
        ledger_id: int,
    ) -> Outcome:
        if len(account_ids) < LEGS_MIN or not all(1 <= abs(amount) <= MAX for amount in amounts_minor):
            raise Refused("invalid_argument")
        if sum(amounts_minor) != 0 or any(condition["account_id"] not in account_ids for condition in conditions):
            raise Refused("invalid_argument")
        _check_text(idempotency_key)
        accounts = [self._account(account_id, ledger_id) for account_id in account_ids]
        conditioned = [(self._account(condition["account_id"], ledger_id), condition) for condition in conditions]
        if any(account.stripes for account, _ in conditioned):
            raise Refused("account_striped")
        compound = _compound("compound", ledger_id, tuple(zip(accounts, amounts_minor, strict=True)))
        compound.asked = (conditions,)
        return self._record(compound, idempotency_key, conditions=conditioned)

    def exchange(
        self,
        *,
        debit_account_id: int,
        credit_account_id: int,
        amount_minor: int,
        rate: Decimal,
        idempotency_key: str | None,
        ledger_id: int,
    ) -> Outcome:
        _check_amount(amount_minor)
        if not 0 < rate < Decimal("1e18"):
            raise Refused("invalid_argument")
        debit, credit = self._account(debit_account_id, ledger_id), self._account(credit_account_id, ledger_id)
        _check_text(idempotency_key)
        units = Fraction(10) ** (EXPONENTS[credit.currency] - EXPONENTS[debit.currency])
        exact = amount_minor * Fraction(rate) * units
        prior = None
        if debit.currency == credit.currency:
            prior = "same_currency"
        elif exact < 1:
            prior = "amount_too_small"
        elif exact >= MAX + 1:
            prior = "balance_overflow"
        credited = int(exact) if 1 <= exact < MAX + 1 else 1
        legs = (
            (debit, -amount_minor),
            (credit, credited),
            (self._book("liquidity", debit.currency, ledger_id), amount_minor),
            (self._book("liquidity", credit.currency, ledger_id), -credited),
        )
        exchange = _compound("exchange", ledger_id, legs)
        exchange.rate = rate
        exchange.residue = None if prior else exact - credited
        return self._record(exchange, idempotency_key, prior=prior)

    def transfer_to_ledger(
        self,
        *,
        debit_account_id: int,
        credit_ledger_id: int,
        credit_account_id: int,
        amount_minor: int,
        idempotency_key: str | None,
        ledger_id: int,
    ) -> Outcome:
        _check_amount(amount_minor)
        debit, credit = self._account(debit_account_id, ledger_id), self._account(credit_account_id, credit_ledger_id)
        _check_text(idempotency_key)
        clearing = self._book("clearing", debit.currency, ledger_id)
        their_clearing = self._book("clearing", debit.currency, credit_ledger_id)
        asked = (amount_minor, credit)
        ours = Transaction("cross_ledger", ledger_id, debit, clearing, amount_minor, counterpart=credit, asked=asked)
        theirs = Transaction("cross_ledger", credit_ledger_id, their_clearing, credit, amount_minor, counterpart=debit)
        prior = "same_ledger" if ledger_id == credit_ledger_id else self._rejection(ours) or self._rejection(theirs)

        outcome = self._record(ours, idempotency_key, prior=prior)
        if ours.code is None and not outcome.replayed:
            self._record(theirs, None)
            ours.original, theirs.original = theirs, ours
        return outcome

    # What all of them share

    def _record(
        self,
        transaction: Transaction,
        key: str | None,
        *,
        prior: str | None = None,
        released: int = 0,
        conditions: Iterable[tuple[Account, dict[str, int]]] = (),
    ) -> Outcome:
        """Replay the outcome of a used key, or decide, post and record."""
        first = self.recorded.get((transaction.ledger_id, key))
        if first is not None:
            if transaction.request != first.request:
                raise Refused("idempotency_key_reused")
            return Outcome(first, replayed=True)
        transaction.key = key
        transaction.code = prior or self._rejection(transaction, released, conditions)
        if transaction.code is None and transaction.kind not in ("hold", "void"):
            self._move(transaction)
        if transaction.code is None and transaction.kind not in ("void", "reversal"):
            for account, net in _nets(transaction.movements).items():
                if net < 0:
                    account.use_limits(*transaction.spent(-net))
        self._keep(transaction)
        return Outcome(transaction)

    def _keep(self, transaction: Transaction) -> None:
        self.transactions.append(transaction)
        if transaction.key is not None:
            self.recorded[transaction.ledger_id, transaction.key] = transaction

    def _move(self, transaction: Transaction) -> None:
        """Enter the credits, then the debits, so that no balance after is lower than the last."""
        movements = transaction.movements
        afters: dict[int, After] = {}
        for number, (account, amount) in sorted(enumerate(movements), key=lambda leg: leg[1][1] < 0):
            account.post(amount)
            afters[number] = account.after
        transaction.legs_after = [afters[number] for number in range(len(movements))]
        debit = next(number for number, (_, amount) in enumerate(movements) if amount < 0)
        credit = next(number for number, (_, amount) in enumerate(movements) if amount > 0)
        transaction.debit_after, transaction.credit_after = afters[debit], afters[credit]

    def _rejection(
        self,
        transaction: Transaction,
        released: int = 0,
        conditions: Iterable[tuple[Account, dict[str, int]]] = (),
    ) -> str | None:
        """Return the first rule that is broken, in the order of sql/errors.toml."""
        if transaction.kind == "void":
            return None
        movements, nets = transaction.movements, _nets(transaction.movements)
        sums: Counter[str] = Counter()
        for account, amount in movements:
            sums[account.currency] += amount
        if transaction.legs is None and transaction.debit is transaction.credit:
            return "same_account"
        if any(account.status == "closed" for account in nets):
            return "account_closed"
        if any(account.status in ("frozen", "debits_frozen" if amount < 0 else "credits_frozen")
               for account, amount in movements):  # fmt: skip
            return "account_frozen"
        if any(sums.values()):
            return "currency_mismatch"
        for account, net in nets.items():
            if net < 0 and account.available is not None and account.available + released < -net:
                return "insufficient_funds"
        for account, net in nets.items():
            held = account.held - released if net < 0 else 0
            credited = sum(amount for other, amount in movements if other is account and amount > 0)
            if account.share - held + net < -MAX or account.share + credited > MAX:
                return "balance_overflow"
        return _limit_rejection(transaction, nets, released) or _failed_condition(nets, conditions)

    def _transaction(self, transaction_id: int, ledger_id: int) -> Transaction | None:
        """Find it in an index that takes in what was named since it was used last."""
        while self.indexed < len(self.transactions) and self.transactions[self.indexed].transaction_id is not None:
            named = self.transactions[self.indexed]
            self.by_id[named.ledger_id, named.transaction_id] = named
            self.indexed += 1
        return self.by_id.get((ledger_id, transaction_id))

    def _account(self, account_id: int | None, ledger_id: int) -> Account:
        for account in self.accounts:
            if account.account_id == account_id and account.ledger_id == ledger_id:
                return account
        raise Refused("account_not_found")

    def _book(self, purpose: str, currency: str, ledger_id: int) -> Account:
        """Return an account of the ledger itself, which is made at its first use."""
        name = ledger_id, purpose, currency
        if name not in self.books:
            if purpose != "settlement":
                self._book("settlement", currency, ledger_id)
            self.books[name] = Account(None, ledger_id, currency, overdraft=None)
            self._stripe(self.books[name], BOOK_STRIPES)
            self.accounts.append(self.books[name])
        return self.books[name]

    def forget_unnamed_books(self) -> None:
        """Take back what a refused call has made: its transaction was rolled back."""
        self.books = {name: account for name, account in self.books.items() if account.account_id is not None}
        self.accounts = [account for account in self.accounts if account.account_id is not None]

    def savepoint(self) -> Any:
        accounts = [
            (
                account,
                {
                    **vars(account),
                    "shares": dict(account.shares),
                    "limits": {kind: replace(limit) for kind, limit in account.limits.items()},
                },
                len(account.lines),
                len(account.changes),
            )
            for account in self.accounts
        ]
        holds = [(hold, hold.captured, hold.status) for account in self.accounts for hold in account.holds]
        return accounts, holds, dict(self.books), len(self.transactions)

    def roll_back(self, savepoint: Any) -> None:
        """Undo everything since the savepoint."""
        accounts, holds, self.books, transaction_count = savepoint
        self.accounts = [account for account, *_ in accounts]
        for account, state, line_count, change_count in accounts:
            vars(account).update(state)
            del account.lines[line_count:], account.changes[change_count:]
        for hold, captured, status in holds:
            hold.captured, hold.status = captured, status
        for transaction in self.transactions[transaction_count:]:
            self.recorded.pop((transaction.ledger_id, transaction.key), None)
            if transaction.kind == "reversal" and transaction.code is None:
                assert transaction.original
                original = transaction.original
                original.reversed_minor -= original.amount if original.legs else transaction.amount
        del self.transactions[transaction_count:]


def check_posting(row: Row, outcome: Outcome | str) -> None:
    """Compare a posting with the model's, or the code of one that is not recorded; learn the id that it was given."""
    if isinstance(outcome, str):
        assert (row["transaction_id"], row["failure_code"]) == (None, outcome)
        return
    transaction = outcome.transaction
    if not outcome.replayed:
        assert transaction.transaction_id is None
        transaction.transaction_id = row["transaction_id"]
        if transaction.kind == "cross_ledger" and transaction.original:
            transaction.original.transaction_id = row["original_transaction_id"]
    assert shown(row, outcome.row()) == outcome.row()


def shown(row: Row, expected: Row) -> Row:
    """Return the columns that the model knows, in its terms."""
    known = {name: row[name] for name in expected}
    if known.get("exchange_residue_minor") is not None:
        known["exchange_residue_minor"] = Fraction(known["exchange_residue_minor"])
    if known.get("legs"):  # the version of a stripe says nothing about the account
        known["legs"] = [
            {k: v for k, v in leg.items() if "stripe" not in leg or k not in ("stripe", "version")}
            for leg in known["legs"]
        ]
    return known


def _check_amount(amount: int) -> int:
    if not 1 <= amount <= MAX:
        raise Refused("invalid_amount")
    return amount


def _amount_or(given: int | None, left: int, whole: int) -> int:
    """Return the amount of a call that may leave it out: what is left, or the whole when nothing is."""
    return (left or whole) if given is None else _check_amount(given)


def _check_text(text: str | None) -> None:
    if text is not None and not text.strip():
        raise Refused("invalid_argument")


def _nets(movements: Legs) -> dict[Account, int]:
    nets: dict[Account, int] = {}
    for account, amount in movements:
        nets[account] = nets.get(account, 0) + amount
    return nets


def _compound(kind: str, ledger_id: int, legs: Legs, original: Transaction | None = None) -> Transaction:
    """Return a transaction of legs: its sides are the first of either, its amount what its currency moves."""
    debit = next(account for account, amount in legs if amount < 0)
    credit = next(account for account, amount in legs if amount > 0)
    amount = sum(-part for account, part in legs if part < 0 and account.currency == debit.currency)
    return Transaction(kind, ledger_id, debit, credit, min(amount, MAX), original, legs)


def _limit_rejection(transaction: Transaction, nets: dict[Account, int], released: int) -> str | None:
    for limit_kind in LIMIT_KINDS:
        limited = [
            (account, net, account.limits[limit_kind]) for account, net in nets.items() if limit_kind in account.limits
        ]
        debited = [(-net, limit) for _, net, limit in limited if net < 0 and transaction.kind != "reversal"]
        spent = [(*transaction.spent(amount), limit) for amount, limit in debited]
        if limit_kind == "minimum_balance":
            for account, net, limit in limited:
                if net < 0 and _passes(limit.amount, -(account.balance - account.held + released + net), sign=-1):
                    return "balance_below_minimum"
        elif limit_kind == "maximum_balance":
            if any(net > 0 and _passes(limit.amount, account.balance + net) for account, net, limit in limited):
                return "balance_above_maximum"
        elif limit_kind == "transaction":
            if any(_passes(limit.amount, amount) for amount, limit in debited):
                return "transaction_limit_exceeded"
        else:
            if any(amount > 0 and _passes(limit.amount, limit.used_minor + amount) for amount, _, limit in spent):
                return f"{limit_kind}_amount_exceeded"
            if any(count > 0 and _passes(limit.count, limit.used_count + count) for _, count, limit in spent):
                return f"{limit_kind}_count_exceeded"
    return None


def _passes(limit: int | None, value: int, sign: int = 1) -> bool:
    return limit is not None and value > sign * limit


def _failed_condition(nets: dict[Account, int], conditions: Iterable[tuple[Account, dict[str, int]]]) -> str | None:
    for account, condition in conditions:
        after = account.balance + nets[account]
        if (
            after < condition.get("balance_at_least_minor", after)
            or after > condition.get("balance_at_most_minor", after)
            or account.version != condition.get("version", account.version)
        ):
            return "condition_failed"
    return None
