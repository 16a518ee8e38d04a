"""The functions against a small model of a bank (model.py), step by step, with random calls of every kind together.

Each example has two ledgers of its own in one database. PGTELLER_MODEL_STEPS is the number of steps in all (20,000 when
unset): the long run is by hand. The run prints its seed, PGTELLER_MODEL_SEED repeats it.
"""

import os
import secrets
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
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
from psycopg.types.json import Jsonb

from tests.conftest import Bank, Connection
from tests.helpers import Row, call, call_all, violations
from tests.sql.model import (
    LIMIT_KINDS,
    MAX,
    PAST,
    WINDOWS,
    Account,
    Hold,
    Limit,
    Outcome,
    Refused,
    Transaction,
    check_posting,
    shown,
)
from tests.sql.model import Bank as Model

STEPS = int(os.environ.get("PGTELLER_MODEL_STEPS", "20000"))
STEPS_AN_EXAMPLE = 100
EXAMPLES = max(1, STEPS // STEPS_AN_EXAMPLE)
EXAMPLE_SECONDS_MAX = 5
STEPS_THAT_SEE_EVERYTHING = 10_000
CALLS_BETWEEN_DOUBLE_ONES = 4
FUNCTIONS = {  # that change something
    *("open_account", "freeze_account", "unfreeze_account", "close_account", "reopen_account", "set_limit"),
    *("stripe_account", "credit", "debit", "transfer", "post", "sweep", "authorise", "capture", "void", "reverse"),
    *("post_legs", "exchange", "transfer_to_ledger"),
}
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)
ACCOUNTS_MAX = (6, 3)  # of either ledger

small = st.integers(1, 200)
odd = [MAX, MAX, MAX - 1, 0, -1, 2**53]
amounts = st.sampled_from([*range(1, 201), *odd, *odd])
some_amounts = st.sampled_from([*[None] * 100, *range(1, 101), *odd])
keys = st.sampled_from([*[None] * 16, *(f"key-{number}" for number in range(8)), " "])
picks = st.integers(0, 29)
PICKS_OF_FAVOURITES, PICKS_OF_BOOKS, PICKS_OF_NONE = 12, 28, 29
PICK_OF_UNLIMITED = 23  # the account that has no overdraft limit to begin with
ledgers = st.sampled_from([0, 0, 0, 0, 1])
reasons = st.sampled_from([None] * 8 + ["Because", " "])
rates = st.sampled_from(
    [
        Decimal(text)
        for text in ("1", "163.25", "0.0061", "0.005025125628140703517", "123456789.000000000001", "1e-9", "0", "1e17")
    ]
)
first_limits = st.lists(
    st.tuples(
        st.sampled_from([0, 0, PICKS_OF_FAVOURITES, PICK_OF_UNLIMITED]),
        st.sampled_from(LIMIT_KINDS),
        st.sampled_from([50, 100, 150, 200, 300, 400, 600, None]),
        st.sampled_from([None, None, 1, 2, 4, 1000]),
    ),
    max_size=3,
)
legs = st.lists(st.tuples(picks, st.sampled_from([*range(1, 101), *range(-100, 0)])), min_size=1, max_size=4)
conditions = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["balance_at_least_minor", "balance_at_most_minor", "version"]),
        st.integers(0, 200),
    ),
    max_size=2,
)
items = st.lists(
    st.tuples(
        st.sampled_from(["credit", "debit", "transfer"]),
        picks,
        st.one_of(st.none(), picks, picks),
        amounts,
        keys,
        st.sampled_from([None, None, 1, 1, 1, 2]),
    ),
    min_size=1,
    max_size=6,
)


class BankMachine(RuleBasedStateMachine):
    """Every step is a call, compared with the model's answer."""

    app: Connection
    owner: Connection
    seen: Counter[tuple[str, str | None]]  # of function and code, for those who run it by hand

    @initialize(held=st.sampled_from([None, 40, 100]), limits=first_limits)
    def open_ledgers(self, held: int | None, limits: list[tuple[int, str, int | None, int | None]]) -> None:
        now = datetime.now(UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        if midnight - now < timedelta(seconds=EXAMPLE_SECONDS_MAX):
            time.sleep(EXAMPLE_SECONDS_MAX)  # what is used of a day's limit is gone on the next
        self.ledgers: list[int] = [call(self.owner, "create_ledger", "Model")["ledger_id"] for _ in range(2)]
        self.bank = Model(stripe_choice=self.app.info.backend_pid)
        self.calls: list[tuple[str, Row]] = []
        accounts = ((0, "EUR", 0), (0, "EUR", 100), (0, "JPY", 0), (0, "EUR", None), (1, "EUR", 0), (1, "EUR", 0))
        for number, currency, limit in accounts:
            self.call("open_account", currency=currency, overdraft_limit_minor=limit, ledger_id=self.ledgers[number])
            self.post(number, "credit", None, account_id=self.bank.accounts[-1].account_id, amount_minor=300)
        euros, yens = self.bank.accounts[3], self.bank.accounts[2]
        sides = {"debit_account_id": euros.account_id, "credit_account_id": yens.account_id}
        self.post(0, "exchange", None, **sides, amount_minor=10, rate=Decimal("163.25"))
        if held:
            self.authorise(
                number=0, account=0, beneficiary=None, amount=held, tolerance=10, expires_at=None, key="key-0"
            )
        for account, kind, amount, count in limits:
            self.set_limit(0, account, kind, amount, count)

    # Accounts

    @rule(number=ledgers, currency=st.sampled_from(["EUR", "JPY"]), limit=st.sampled_from([0, 0, 100, None]))
    def open_account(self, number: int, currency: str, limit: int | None) -> None:
        ledger_id = self.ledgers[number]
        if len(self.own(ledger_id)) < ACCOUNTS_MAX[number]:
            self.call("open_account", currency=currency, overdraft_limit_minor=limit, ledger_id=ledger_id)

    @rule(number=ledgers, account=picks, ways=st.sampled_from(["d", "c", "dc"] * 3 + [""]), reason=reasons)
    def freeze_account(self, number: int, account: int, ways: str, reason: str | None) -> None:
        named = {"account_id": self.pick(number, account), "reason": reason, "ledger_id": self.ledgers[number]}
        self.call("freeze_account", **named, debits="d" in ways, credits="c" in ways)

    @rule(
        number=ledgers,
        account=picks,
        reason=reasons,
        function=st.sampled_from(["unfreeze"] * 3 + ["close"] * 2 + ["reopen"]),
    )
    def change_status(self, number: int, account: int, reason: str | None, function: str) -> None:
        empty = [a.account_id for a in self.own(self.ledgers[number]) if not a.balance and not a.held]
        account_id = empty[0] if function == "close" and empty and account % 4 else self.pick(number, account)
        self.call(f"{function}_account", account_id=account_id, reason=reason, ledger_id=self.ledgers[number])

    @rule(
        number=ledgers,
        account=picks,
        kind=st.sampled_from(["overdraft", "overdraft", *LIMIT_KINDS]),
        amount=st.sampled_from([None] * 4 + [0, 20, 100, 300, 1000] * 3 + [MAX, -50, 2**53]),
        count=st.sampled_from([None, None, None, 0, 1, 2, 3, -1]),
    )
    def set_limit(self, number: int, account: int, kind: str, amount: int | None, count: int | None) -> None:
        self.call(
            "set_limit",
            account_id=self.pick(number, account),
            limit_kind=kind,
            amount_max_minor=amount,
            count_max=count if kind in WINDOWS or count == 0 else None,
            ledger_id=self.ledgers[number],
        )

    @rule(number=ledgers, account=picks, stripes=st.sampled_from([0, 1, 2, 3, 16, 64]))
    def stripe_account(self, number: int, account: int, stripes: int) -> None:
        account_id = self.pick(number, account)
        self.call("stripe_account", account_id=account_id, stripes=stripes, ledger_id=self.ledgers[number])

    # Postings between two accounts

    @rule(number=ledgers, account=picks, amount=amounts, key=keys)
    def credit(self, number: int, account: int, amount: int, key: str | None) -> None:
        self.post(number, "credit", key, account_id=self.pick(number, account), amount_minor=amount)

    @rule(number=ledgers, account=picks, amount=st.integers(1, 100))
    def credit_plainly(self, number: int, account: int, amount: int) -> None:
        self.post(number, "credit", None, account_id=self.pick(number, account % PICKS_OF_BOOKS), amount_minor=amount)

    @rule(number=ledgers, account=picks, beneficiary=st.one_of(st.none(), picks), amount=amounts, key=keys)
    def debit(self, number: int, account: int, beneficiary: int | None, amount: int, key: str | None) -> None:
        self.post(
            number,
            "debit",
            key,
            account_id=self.pick(number, account),
            amount_minor=amount,
            beneficiary_account_id=self.pick_or_none(number, beneficiary),
        )

    @rule(number=ledgers, debit=picks, credit=picks, amount=amounts, key=keys)
    def transfer(self, number: int, debit: int, credit: int, amount: int, key: str | None) -> None:
        sides = self.sides(number, debit, credit)
        self.call("explain_transfer", **sides, amount_minor=amount, ledger_id=self.ledgers[number])
        self.post(number, "transfer", key, **sides, amount_minor=amount)

    @rule(number=ledgers, batch=items, atomic=st.sampled_from([False, False, False, True]))
    def batch(self, number: int, batch: list[Any], atomic: bool) -> None:
        kinds, debits, credits, amounts_minor, idempotency_keys, groups = (list(x) for x in zip(*batch, strict=True))
        self.call(
            "post",
            transaction_types=kinds,
            debit_account_ids=[self.pick(number, account) for account in debits],
            credit_account_ids=[
                self.pick_or_none(number, account if kind == "debit" else account or 0)
                for kind, account in zip(kinds, credits, strict=True)
            ],
            amounts_minor=amounts_minor,
            idempotency_keys=idempotency_keys,
            groups=groups,
            atomic=atomic,
            ledger_id=self.ledgers[number],
        )

    @rule(number=ledgers, debit=picks, credit=picks, at_most=some_amounts, key=keys)
    def sweep(self, number: int, debit: int, credit: int, at_most: int | None, key: str | None) -> None:
        sides = self.sides(number, debit, credit)
        self.post(number, "sweep", key, **sides, at_most_minor=at_most)

    @rule(number=ledgers, account=picks, room=st.integers(0, 150), key=keys)
    def debit_down_to_the_end_of_the_exact_range(self, number: int, account: int, room: int, key: str | None) -> None:
        unlimited = [a for a in self.own(self.ledgers[number]) if a.overdraft is None]
        if unlimited:
            chosen = unlimited[account % len(unlimited)]
            amount = min(max(chosen.share + MAX - room, 1), MAX)
            self.post(
                number,
                "debit",
                key,
                account_id=chosen.account_id,
                amount_minor=amount,
                beneficiary_account_id=None,
            )

    # Holds

    @rule(
        number=ledgers,
        account=picks,
        beneficiary=st.one_of(st.none(), picks),
        amount=amounts,
        tolerance=st.sampled_from([0, 0, 10, 50, 200, 1000] * 4 + [MAX, -1]),
        expires_at=st.sampled_from([None, FUTURE] * 8 + [PAST]),
        key=keys,
    )
    def authorise(
        self,
        *,
        number: int,
        account: int,
        beneficiary: int | None,
        amount: int,
        tolerance: int,
        expires_at: datetime | None,
        key: str | None,
    ) -> None:
        self.post(
            number,
            "authorise",
            key,
            account_id=self.pick(number, account),
            amount_minor=amount,
            beneficiary_account_id=self.pick_or_none(number, beneficiary),
            tolerance_minor=tolerance,
            expires_at=expires_at,
        )

    @rule(hold=picks, amount=some_amounts, final=st.booleans(), key=keys)
    @precondition(lambda self: self.holds)
    def capture(self, hold: int, amount: int | None, final: bool, key: str | None) -> None:
        number, hold_id = self.pick_hold(hold)
        self.post(number, "capture", key, hold_id=hold_id, amount_minor=amount, final=final)

    @rule(hold=picks, beyond=st.integers(-20, 120), final=st.booleans(), key=keys)
    @precondition(lambda self: self.holds)
    def capture_about_what_is_left(self, hold: int, beyond: int, final: bool, key: str | None) -> None:
        number, hold_id = self.pick_hold(hold)
        left = next((t.hold.left for t in self.holds if t.hold and t.transaction_id == hold_id), 0)
        self.post(number, "capture", key, hold_id=hold_id, amount_minor=max(left + beyond, 1), final=final)

    @rule(hold=picks, key=keys)
    @precondition(lambda self: self.holds)
    def void(self, hold: int, key: str | None) -> None:
        number, hold_id = self.pick_hold(hold)
        self.post(number, "void", key, hold_id=hold_id)

    @rule(number=picks)
    @precondition(lambda self: any(t.hold and t.hold.status == "open" for t in self.holds))
    def let_a_hold_expire(self, number: int) -> None:
        holds = [t for t in self.holds if t.hold and t.hold.status == "open"]
        chosen = holds[number % len(holds)]
        assert chosen.hold
        chosen.hold.expire()
        self.owner.execute(
            "update bank.hold set expires_at = %s where ledger_id = %s and hold_id = %s",
            [PAST, chosen.ledger_id, chosen.transaction_id],
        )

    @rule()
    def end_expired_holds(self) -> None:
        self.app.execute("select bank.end_expired_holds()")

    # Reversals, several legs, currencies, ledgers

    @rule(transaction=picks, amount=some_amounts, force=st.booleans(), key=keys)
    def reverse(self, transaction: int, amount: int | None, force: bool, key: str | None) -> None:
        number, transaction_id = self.pick_transaction(self.transactions, transaction)
        self.post(number, "reverse", key, transaction_id=transaction_id, amount_minor=amount, force=force)

    @rule(transaction=picks, amount=st.one_of(st.none(), small), force=st.booleans())
    def reverse_plainly(self, transaction: int, amount: int | None, force: bool) -> None:
        reversible = [t for t in self.transactions if not t.code and t.kind not in ("hold", "void", "reversal")]
        number, transaction_id = self.pick_transaction(reversible, transaction)
        self.post(number, "reverse", None, transaction_id=transaction_id, amount_minor=amount, force=force)

    @rule(number=ledgers, parts=legs, last=picks, off=st.sampled_from([0] * 7 + [1]), wanted=conditions, key=keys)
    def post_legs(
        self, *, number: int, parts: list[tuple[int, int]], last: int, off: int, wanted: list[Any], key: str | None
    ) -> None:
        accounts = [*(account for account, _ in parts), last]
        account_ids = [self.pick(number, account, favourite=leg % 2) for leg, account in enumerate(accounts)]
        amounts_minor = [amount for _, amount in parts]
        self.post(
            number,
            "post_legs",
            key,
            account_ids=account_ids,
            amounts_minor=[*amounts_minor, off - sum(amounts_minor)],
            conditions=[
                {"account_id": [*account_ids, 10**15][leg % (len(account_ids) + 1)], what: value}
                for leg, what, value in wanted
            ],
        )

    @rule(number=ledgers, debit=picks, credit=picks, amount=amounts, rate=rates, key=keys)
    def exchange(self, *, number: int, debit: int, credit: int, amount: int, rate: Decimal, key: str | None) -> None:
        sides = self.sides(number, debit, credit)
        self.post(number, "exchange", key, **sides, amount_minor=amount, rate=rate)

    @rule(
        number=ledgers, away=st.sampled_from([True] * 8 + [False]), debit=picks, credit=picks, amount=amounts, key=keys
    )
    def transfer_to_ledger(
        self, *, number: int, away: bool, debit: int, credit: int, amount: int, key: str | None
    ) -> None:
        other = 1 - number if away else number
        self.post(
            number,
            "transfer_to_ledger",
            key,
            debit_account_id=self.pick(number, debit),
            credit_ledger_id=self.ledgers[other],
            credit_account_id=self.pick(other, credit, favourite=1),
            amount_minor=amount,
        )

    @rule(number=picks)
    @precondition(lambda self: self.calls)
    def retry(self, number: int) -> None:
        function, arguments = self.calls[-1 - number % len(self.calls)]
        self.call(function, **arguments)

    @rule(number=picks, difference=picks, amount=some_amounts)
    @precondition(lambda self: self.calls)
    def ask_something_else_under_a_used_key(self, number: int, difference: int, amount: int | None) -> None:
        """Change one thing that was asked, often to what came of it: that is another question all the same."""
        function, arguments = self.calls[-1 - number % len(self.calls)]
        first = self.bank.recorded.get((arguments["ledger_id"], arguments.get("idempotency_key")))
        came_of_it = first.amount if first and difference % 2 else amount
        changes: list[tuple[str, Row]] = [
            (function, {name: different})
            for name, different in (
                ("amount_minor", came_of_it if function in ("capture", "reverse") else came_of_it or 1),
                ("at_most_minor", came_of_it),
                ("final", not arguments.get("final")),
                ("force", not arguments.get("force")),
                ("tolerance_minor", difference),
                ("expires_at", None if arguments.get("expires_at") else FUTURE),
                ("conditions", [*arguments.get("conditions", [])[1:]]),
                ("credit_account_id", self.pick(self.ledgers.index(arguments["ledger_id"]), difference)),
                ("rate", Decimal("1.0")),
            )
            if name in arguments
        ]
        sides = {name: arguments.get(name) for name in ("debit_account_id", "credit_account_id", "idempotency_key")}
        if function in ("sweep", "transfer"):
            other = {"amount_minor": came_of_it or 1} if function == "sweep" else {"at_most_minor": came_of_it}
            changes.append(("transfer" if function == "sweep" else "sweep", {**sides, **other}))
            one = {
                "transaction_types": ["transfer"],
                "debit_account_ids": [arguments["debit_account_id"]],
                "credit_account_ids": [arguments["credit_account_id"]],
                "amounts_minor": [first.amount if first else 1],
                "idempotency_keys": [arguments["idempotency_key"]],
                "groups": [None],
                "atomic": False,
            }
            changes.append(("post", one))
        if changes:
            asked, changed = changes[difference % len(changes)]
            kept = arguments if asked == function else {"ledger_id": arguments["ledger_id"]}
            self.call(asked, **{**kept, **changed})

    # What the rules are made of

    @property
    def transactions(self) -> list[Transaction]:
        return self.bank.transactions if hasattr(self, "bank") else []

    @property
    def holds(self) -> list[Transaction]:
        return [transaction for transaction in self.transactions if transaction.hold]

    def own(self, ledger_id: int) -> list[Account]:
        """Return the accounts of a ledger that are not its own."""
        books = self.bank.books.values()
        return [account for account in self.bank.accounts if account.ledger_id == ledger_id and account not in books]

    def pick(self, number: int, account: int, favourite: int = 0) -> int:
        """Return an account's id: the favourite's often, so that a few have a life; of the ledger or of none rarely."""
        own = self.own(self.ledgers[number])
        books = [book for book in self.bank.books.values() if book.ledger_id == self.ledgers[number]]
        chosen = books if account == PICKS_OF_BOOKS else own if account != PICKS_OF_NONE else []
        index = favourite if account < PICKS_OF_FAVOURITES else 1 - favourite if account % 3 == 0 else account
        account_id = chosen[index % len(chosen)].account_id if chosen else 10**15
        assert account_id
        return account_id

    def pick_or_none(self, number: int, account: int | None) -> int | None:
        return None if account is None else self.pick(number, account, favourite=1)

    def sides(self, number: int, debit: int, credit: int) -> dict[str, int]:
        return {
            "debit_account_id": self.pick(number, debit),
            "credit_account_id": self.pick(number, credit, favourite=1),
        }

    def pick_hold(self, number: int) -> tuple[int, int]:
        """Return the number of a ledger, and a hold's id in it; open ones are likely."""
        still_open = [t for t in self.holds if t.hold and t.hold.status == "open"]
        return self.pick_transaction(still_open if still_open and number % 4 else self.holds, number)

    def pick_transaction(self, transactions: list[Transaction], number: int) -> tuple[int, int]:
        """Return the number of a ledger, and a transaction's id in it; the newest ones are likely."""
        if not transactions or number == PICKS_OF_NONE:
            return 0, 10**15
        chosen = transactions[-1 - number % len(transactions)]
        assert chosen.transaction_id
        return self.ledgers.index(chosen.ledger_id), chosen.transaction_id

    def post(self, number: int, function: str, key: str | None, **arguments: Any) -> None:
        self.call(function, **arguments, idempotency_key=key, ledger_id=self.ledgers[number])

    def call(self, function: str, **arguments: Any) -> None:
        """Call the model and the database, and expect the same answer: the same columns, or the same code raised."""
        keyed = arguments.get("idempotency_key") or any(arguments.get("idempotency_keys", []))
        if keyed and (function, arguments) not in self.calls:
            self.calls.append((function, arguments))
            if len(self.calls) % CALLS_BETWEEN_DOUBLE_ONES == 0:
                self.call(function, **arguments)
        sent = {k: Jsonb(v) if k == "conditions" else v for k, v in arguments.items()}
        if function == "open_account":
            sent["holder_name"] = "Ada"
        try:
            expected = getattr(self.bank, function)(**arguments)
        except Refused as refused:
            self.seen[function, refused.code] += 1
            self.bank.forget_unnamed_books()
            with pytest.raises(psycopg.Error) as caught:
                call_all(self.app, function, **sent)
            assert caught.value.diag.message_primary == refused.code
            return
        rows = call_all(self.app, function, **sent)
        if isinstance(expected, Account):
            expected.account_id = expected.account_id or rows[0]["account_id"]
        self.name_books()
        if function == "explain_transfer":
            assert (rows[0]["verdict"], rows[0]["failure_code"]) == expected
        elif isinstance(expected, Account):
            self.seen[function, None] += 1
            assert shown(rows[0], expected.row()) == expected.row()
        else:
            outcomes = expected if isinstance(expected, list) else [expected]
            for row, outcome in zip(rows, outcomes, strict=True):
                self.compare(function, row, outcome)

    def compare(self, function: str, row: Row, outcome: Outcome | str) -> None:
        """Compare a posting, and count it."""
        if isinstance(outcome, str):
            self.seen[function, outcome] += 1
        else:
            self.seen[function, "replayed" if outcome.replayed else outcome.transaction.code] += 1
        check_posting(row, outcome)

    def name_books(self) -> None:
        """Learn the ids of the ledger's own accounts that the last call has made."""
        for (ledger_id, purpose, currency), book in self.bank.books.items():
            if book.account_id is None:
                row = self.app.execute(
                    "select account_id from bank.account_detail"
                    " where account_type = 'asset' and ledger_id = %s and holder_name = %s",
                    [ledger_id, f"{purpose.capitalize()} {currency}"],
                ).fetchone()
                assert row is not None
                book.account_id = row["account_id"]

    @invariant()
    def balances_are_those_of_the_model(self) -> None:
        if hasattr(self, "bank"):
            names = ("account_id", "balance_minor", "held_minor", "available_balance_minor", "version")
            assert sorted(tuple(row[name] for name in names) for row in self.read("account_balance")) == sorted(
                (a.account_id, a.balance, a.held, a.available, a.version) for a in self.bank.accounts
            )

    def teardown(self) -> None:
        if not hasattr(self, "bank"):
            return
        for account in self.bank.accounts:
            lines = call_all(self.app, "statement", account.account_id, None, 1000, account.ledger_id)
            found = [(line["version"], line["amount_minor"], line["balance_after_minor"]) for line in lines]
            assert found == account.lines[::-1]
        accounts = {account.account_id: account.row() for account in self.bank.accounts}
        for row in self.read("account_detail"):
            assert shown(row, accounts[row["account_id"]]) == accounts[row["account_id"]]
        transactions = {t.transaction_id: t.row() for t in self.transactions}
        recorded = self.read("posting", "true order by transaction_id")
        assert [row["transaction_id"] for row in recorded] == sorted(id_ for id_ in transactions if id_)
        for row in recorded:
            expected = transactions[row["transaction_id"]]
            assert shown(row, expected) == expected
        assert {
            row["hold_id"]: Hold(
                row["amount_minor"],
                row["tolerance_minor"],
                row["expires_at"],
                row["captured_minor"],
                row["hold_status"],
            )
            for row in self.read("hold_detail")
        } == {t.transaction_id: t.hold for t in self.holds}
        assert {
            (row["account_id"], row["limit_kind"]): Limit(
                *(row[name] for name in ("amount_max_minor", "count_max", "used_minor", "used_count"))
            )
            for row in self.read("limit_detail")
        } == {(a.account_id, kind): limit for a in self.bank.accounts for kind, limit in a.limits.items()}
        assert {
            (row["account_id"], row["change_number"]): row["change_type"] for row in self.read("change_detail")
        } == {(a.account_id, number): change for a in self.bank.accounts for number, change in enumerate(a.changes, 1)}
        for ledger_id in self.ledgers:
            assert self.app.execute("select * from bank.verify(%s)", [ledger_id]).fetchall() == []

    def read(self, view: str, condition: str = "true") -> list[Row]:
        """Return the rows of a view that belong to the ledgers of this example."""
        return self.app.execute(
            f"select * from bank.{view} where ledger_id in (%s, %s) and {condition}", self.ledgers
        ).fetchall()


@pytest.mark.timeout(0)
def test_the_functions_behave_as_the_model(bank: Bank) -> None:
    with bank.connect() as app, bank.connect("bank_owner") as owner:
        BankMachine.app, BankMachine.owner, BankMachine.seen = app, owner, Counter()
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
        assert violations(app) == []
        if STEPS >= STEPS_THAT_SEE_EVERYTHING:
            assert {function for function, code in BankMachine.seen if code is None} >= FUNCTIONS
        for (function, code), times in sorted(BankMachine.seen.items(), key=str):
            print(f"{times:8} {function} {code or 'success'}")
