"""Random calls of every kind, by several sessions at once, and a record of what each was answered.

The accounts are few, so that calls meet. What one session made (a hold, a transaction, a key) the others use too.
"""

import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from tests.conftest import Bank, Connection
from tests.helpers import Row
from tests.helpers import call as ask
from tests.sql.model import LIMIT_KINDS, WINDOWS

SESSIONS = 8
ATTEMPTS_MAX = 1000
STATEMENT_TIMEOUT_SECONDS = 30
BARRIER_SECONDS = 30
MICROSECOND = timedelta(microseconds=1)
OPENED_MAX = 10
MAIN, BRANCH = 0, 1
POSTING = (
    *("transaction_id", "transaction_type", "transaction_status", "failure_code", "amount_minor", "currency"),
    *("debit_account_id", "credit_account_id", "debit_balance_after_minor", "credit_balance_after_minor"),
    *("debit_version", "credit_version", "idempotency_key", "replayed", "ledger_id", "original_transaction_id"),
    *("counterpart_ledger_id", "exchange_rate", "exchange_residue_minor", "legs", "created_at"),
)
ACCOUNT = (
    *("account_id", "ledger_id", "currency", "account_status", "balance_minor", "held_minor"),
    *("available_balance_minor", "overdraft_limit_minor", "version", "stripes"),
)
INTERNED = [POSTING.index(name) for name in ("transaction_type", "transaction_status", "failure_code", "currency")]
ACCOUNT_FUNCTIONS = {
    *("open_account", "freeze_account", "unfreeze_account", "close_account", "reopen_account"),
    *("set_limit", "stripe_account"),
}
CHANGES = ACCOUNT_FUNCTIONS - {"open_account", "stripe_account"}
"""Functions that note who called them: the token of the call."""

Arguments = dict[str, Any]


@dataclass(slots=True)
class Call:
    """What was asked, and what came back. Rows are in the order of POSTING or ACCOUNT."""

    function: str
    arguments: Arguments
    token: str
    started: datetime
    ended: datetime
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    made_at: datetime | None = None
    """The clock when the function had returned and nothing was committed: all that it locked was locked then."""
    error: str | None = None

    @property
    def columns(self) -> Sequence[str]:
        return ACCOUNT if self.function in ACCOUNT_FUNCTIONS else POSTING

    def row(self, number: int = 0) -> Row:
        return dict(zip(self.columns, self.rows[number], strict=True))


@dataclass(frozen=True)
class Place:
    """An account to be: of which ledger, and how it is kept."""

    ledger: int
    currency: str
    overdraft: int | None = 0
    stripes: int = 0
    limits: tuple[tuple[str, int | None, int | None], ...] = ()


PLACES = [
    Place(MAIN, "EUR"),
    Place(MAIN, "EUR"),
    Place(MAIN, "EUR", overdraft=500),
    Place(MAIN, "EUR", overdraft=None),
    Place(MAIN, "EUR", overdraft=None, stripes=4),
    Place(MAIN, "EUR", overdraft=None, stripes=16),
    Place(MAIN, "EUR", limits=(("day", 20_000, None), ("month", None, 400))),
    Place(MAIN, "EUR", limits=(("transaction", 150, None), ("maximum_balance", 8000, None))),
    Place(MAIN, "EUR", limits=(("week", 30_000, 300), ("minimum_balance", 100, None))),
    Place(MAIN, "EUR", overdraft=None),
    Place(MAIN, "EUR"),
    Place(MAIN, "JPY"),
    Place(MAIN, "JPY", overdraft=None, stripes=2),
    Place(MAIN, "JPY", overdraft=1000),
    Place(BRANCH, "EUR"),
    Place(BRANCH, "EUR", overdraft=None, stripes=2),
    Place(BRANCH, "EUR", limits=(("day", None, 200),)),
    Place(BRANCH, "EUR"),
    Place(BRANCH, "JPY"),
    Place(BRANCH, "JPY", overdraft=None),
]
OFTEN_EMPTY = 10
"""The account that is swept, closed and opened again."""
STRIPED = (4, 5)
"""Accounts between which two postings have no row in common."""


@dataclass
class World:
    """What all sessions know. Appending to a full deque is atomic, and never makes it shorter."""

    ledgers: list[int]
    accounts: dict[int, list[int]]
    places: dict[int, Place] = field(default_factory=dict)
    holds: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=100))
    transactions: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=200))
    striped: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=2))
    keyed: deque[tuple[str, Arguments]] = field(default_factory=lambda: deque(maxlen=100))
    not_open: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=8))
    opened: int = 0


class Session:
    """One client: it makes its calls one after another, each again when 40001 or 40P01 says that nothing was done."""

    def __init__(self, bank: Bank, world: World, *, isolation: str, seed: str) -> None:
        self.world = world
        self.name = seed
        self.draw = random.Random(seed)  # noqa: S311 - a test's seed
        self.isolation = isolation
        self.calls: list[Call] = []
        self.retries: Counter[str] = Counter()
        self._bank = bank
        self._statements: dict[tuple[str, ...], bytes] = {}
        self._connection: Connection | None = None

    def open(self) -> None:
        connection = self._bank.connect()
        connection.execute(f"set default_transaction_isolation = '{self.isolation}'".encode())
        connection.execute(f"set statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'".encode())
        connection.execute("set timezone = 'UTC'")
        self._connection = connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    # A call

    def make(self, function: str, /, **arguments: Any) -> Call:
        """Make a call, and again as long as it was rolled back because of others."""
        token = f"{self.name}-{len(self.calls)}"
        sent = {name: Jsonb(value) if name == "conditions" else value for name, value in arguments.items()}
        if function in CHANGES:
            sent["changed_by"] = token
        if function == "open_account":
            sent["holder_name"] = "Ada"
        assert self._connection
        statement = self._statement(function, sent)
        for _ in range(ATTEMPTS_MAX):
            call = Call(function, arguments, token, datetime.now(UTC), datetime.now(UTC))
            try:
                with self._connection.cursor(row_factory=tuple_row) as cursor:
                    rows = cursor.execute(statement, sent).fetchall()
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
                self.retries[str(error.sqlstate)] += 1
                continue
            except psycopg.Error as error:
                # What is not of the catalogue is no answer.
                if not (error.sqlstate or "").startswith("TL"):
                    raise
                call.error = error.diag.message_primary
                rows = []
            call.ended = datetime.now(UTC) + MICROSECOND
            call.made_at = rows[0][-1] if rows else None
            call.rows = [self._compact(call, row) for row in rows]
            self.calls.append(call)
            return call
        raise AssertionError(f"{function} was rolled back {ATTEMPTS_MAX} times: {arguments}")

    @staticmethod
    def _compact(call: Call, row: tuple[Any, ...]) -> tuple[Any, ...]:
        kept = list(row[:-1])
        if len(kept) == len(POSTING):
            for number in INTERNED:
                kept[number] = sys.intern(kept[number]) if kept[number] else kept[number]
        return tuple(kept)

    def _statement(self, function: str, sent: Arguments) -> bytes:
        name = (function, *sent)
        if name not in self._statements:
            given = ", ".join(f"{argument} => %({argument})s" for argument in sent)
            columns = ACCOUNT if function in ACCOUNT_FUNCTIONS else POSTING
            returned = ", ".join(f"made.{column}" for column in columns)
            if function == "end_expired_holds":
                returned = "made"
            self._statements[name] = (
                f"select {returned}, clock_timestamp() from bank.{function}({given}) as made".encode()
            )
        return self._statements[name]

    # Random calls

    def step(self) -> None:
        """Make one random call."""
        kind = self.draw.choices(KINDS, WEIGHTS)[0]
        kind(self)

    def post(self, function: str, ledger: int, /, **arguments: Any) -> None:
        """Make a call that records a transaction, nearly always under a key of its own."""
        ledger_id = self.world.ledgers[ledger]
        key = f"{self.name}-{len(self.calls)}" if self.draw.random() < 0.9 else None
        self.record(function, {**arguments, "idempotency_key": key, "ledger_id": ledger_id})

    def record(self, function: str, arguments: Arguments) -> None:
        if arguments.get("idempotency_key") or function == "post":
            self.world.keyed.append((function, arguments))
        call = self.make(function, **arguments)
        for number in range(len(call.rows)):
            row = call.row(number)
            if row["transaction_id"] is None or row["failure_code"] or row["replayed"]:
                continue
            ledger = self.world.ledgers.index(row["ledger_id"])
            if row["transaction_type"] == "hold":
                self.world.holds.append((ledger, row["transaction_id"]))
            elif row["transaction_type"] not in ("void", "reversal", "cross_ledger"):
                self.world.transactions.append((ledger, row["transaction_id"], row["amount_minor"]))
                if row["debit_version"] is row["credit_version"] is None and row["transaction_type"] == "transfer":
                    self.world.striped.append(self.world.transactions[-1])

    def ledger(self) -> int:
        return self.draw.choices((MAIN, BRANCH), (4, 1))[0]

    def account(self, ledger: int, currency: str | None = None) -> int:
        """Return an account's id, mostly one of the first of its ledger."""
        accounts = self.world.accounts[ledger]
        if currency is not None:
            own = [a for a in accounts if self.world.places[a].currency == currency]
            return self.draw.choice(own)
        return accounts[min(int(self.draw.expovariate(1.5 / len(accounts))), len(accounts) - 1)]

    def sides(self, ledger: int) -> dict[str, int]:
        """Return a debit and a credit account, nearly always of one currency."""
        debit = self.account(ledger)
        same = self.draw.random() < 0.95
        credit = self.account(ledger, self.world.places[debit].currency if same else None)
        return {"debit_account_id": debit, "credit_account_id": credit}

    def amount(self) -> int:
        return self.draw.choice((self.draw.randint(1, 100), self.draw.randint(1, 400), self.draw.randint(1, 3000)))

    def credit(self) -> None:
        ledger = self.ledger()
        self.post("credit", ledger, account_id=self.account(ledger), amount_minor=self.amount())

    def debit(self) -> None:
        ledger = self.ledger()
        sides = self.sides(ledger)
        beneficiary = sides["credit_account_id"] if self.draw.random() < 0.3 else None
        self.post(
            "debit",
            ledger,
            account_id=sides["debit_account_id"],
            amount_minor=self.amount(),
            beneficiary_account_id=beneficiary,
        )

    def transfer(self) -> None:
        ledger = self.ledger()
        sides = self.sides(ledger)
        if ledger == MAIN and self.draw.random() < 0.1:
            accounts = self.world.accounts[MAIN]
            sides = {"debit_account_id": accounts[STRIPED[0]], "credit_account_id": accounts[STRIPED[1]]}
        self.post("transfer", ledger, **sides, amount_minor=self.amount())

    def batch(self) -> None:
        ledger = self.ledger()
        items: list[tuple[Any, ...]] = []
        for number in range(self.draw.randint(1, 6)):
            kind = self.draw.choice(("credit", "debit", "transfer", "transfer"))
            sides = self.sides(ledger)
            debit: int | None = sides["debit_account_id"]
            credit: int | None = sides["credit_account_id"]
            if kind == "debit" and self.draw.random() < 0.5:
                credit = None
            if kind == "credit":
                debit = None
            key = f"{self.name}-{len(self.calls)}-{number}" if self.draw.random() < 0.8 else None
            if items and self.draw.random() < 0.05:
                key = items[-1][4]
            items.append((kind, debit, credit, self.amount(), key, self.draw.choice((None, None, 1, 1, 2))))
        kinds, debits, credits, amounts, keys, groups = (list(column) for column in zip(*items, strict=True))
        self.record(
            "post",
            {
                "transaction_types": kinds,
                "debit_account_ids": debits,
                "credit_account_ids": credits,
                "amounts_minor": amounts,
                "idempotency_keys": keys,
                "groups": groups,
                "atomic": self.draw.random() < 0.2,
                "ledger_id": self.world.ledgers[ledger],
            },
        )

    def legs(self) -> None:
        ledger = self.ledger()
        sides = [self.account(ledger, "EUR") for _ in range(self.draw.randint(2, 5))]
        parts = [self.draw.choice((-1, 1)) * self.draw.randint(1, 200) for _ in sides[1:]]
        if not sum(parts):
            parts[0] += parts[0]
        conditions = []
        if self.draw.random() < 0.3:
            what = self.draw.choice(("balance_at_least_minor", "balance_at_most_minor", "version"))
            conditions.append({"account_id": self.draw.choice(sides), what: self.draw.randint(0, 5000)})
        self.post("post_legs", ledger, account_ids=sides, amounts_minor=[*parts, -sum(parts)], conditions=conditions)

    def sweep(self) -> None:
        ledger = self.ledger()
        at_most = self.draw.choice((None, self.amount(), self.amount()))
        sides = self.sides(ledger)
        if ledger == MAIN and self.draw.random() < 0.3:
            sides["debit_account_id"], at_most = self.world.accounts[MAIN][OFTEN_EMPTY], None
        self.post("sweep", ledger, **sides, at_most_minor=at_most)

    def authorise(self) -> None:
        ledger = self.ledger()
        sides = self.sides(ledger)
        if ledger == MAIN and sides["debit_account_id"] == self.world.accounts[MAIN][OFTEN_EMPTY]:
            sides["debit_account_id"] = self.world.accounts[MAIN][0]  # no hold stays there
        seconds = self.draw.choice((None, None, 0.02, 0.1, 0.3, 86_400))
        self.post(
            "authorise",
            ledger,
            account_id=sides["debit_account_id"],
            amount_minor=self.amount(),
            beneficiary_account_id=self.draw.choice((None, sides["credit_account_id"])),
            tolerance_minor=self.draw.choice((0, 0, 20, 500)),
            expires_at=None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds),
        )

    def capture(self) -> None:
        ledger, hold_id = self.one_of(self.world.holds) or (MAIN, 10**15)
        amount = self.draw.choice((None, self.draw.randint(1, 50), self.amount()))
        final = self.draw.random() < 0.3
        self.post("capture", ledger, hold_id=hold_id, amount_minor=amount, final=final)

    def void(self) -> None:
        ledger, hold_id = self.one_of(self.world.holds) or (MAIN, 10**15)
        self.post("void", ledger, hold_id=hold_id)

    def reverse(self) -> None:
        pool = self.world.striped if self.draw.random() < 0.3 else self.world.transactions
        ledger, transaction_id, whole = self.one_of(pool) or (MAIN, 10**15, 1)
        amount = self.draw.choice((None, None, self.draw.randint(1, whole)))
        force = self.draw.random() < 0.4
        self.post("reverse", ledger, transaction_id=transaction_id, amount_minor=amount, force=force)

    def exchange(self) -> None:
        ledger = self.ledger()
        debit, credit = self.draw.sample(("EUR", "JPY"), 2)
        self.post(
            "exchange",
            ledger,
            debit_account_id=self.account(ledger, debit),
            credit_account_id=self.account(ledger, credit),
            amount_minor=self.amount(),
            rate=Decimal("163.25") if debit == "EUR" else Decimal("0.0061"),
        )

    def transfer_to_ledger(self) -> None:
        ledger = self.draw.choice((MAIN, BRANCH))
        debit = self.account(ledger)
        self.post(
            "transfer_to_ledger",
            ledger,
            debit_account_id=debit,
            credit_ledger_id=self.world.ledgers[1 - ledger],
            credit_account_id=self.account(1 - ledger, self.world.places[debit].currency),
            amount_minor=self.amount(),
        )

    def freeze(self) -> None:
        ledger = self.ledger()
        account_id = self.account(ledger)
        debits, credits = self.draw.choice(((True, True), (True, False), (False, True)))
        self.change("freeze_account", ledger, account_id, reason=None, debits=debits, credits=credits)
        self.world.not_open.append((ledger, account_id))
        # Not for long: an account that is frozen stops the others' calls.
        self.world.keyed.append(
            ("unfreeze_account", {"account_id": account_id, "reason": None, "ledger_id": self.world.ledgers[ledger]})
        )

    def unfreeze(self) -> None:
        ledger, account_id = self.one_of(self.world.not_open) or (MAIN, self.account(MAIN))
        self.change("unfreeze_account", ledger, account_id, reason=None)

    def close_account(self) -> None:
        ledger = self.ledger()
        account_id = self.account(ledger)
        if self.draw.random() < 0.7:
            ledger, account_id = MAIN, self.world.accounts[MAIN][OFTEN_EMPTY]
            sides = {"debit_account_id": account_id, "credit_account_id": self.world.accounts[MAIN][0]}
            self.post("sweep", ledger, **sides, at_most_minor=None)
        self.change("close_account", ledger, account_id, reason=None)

    def reopen(self) -> None:
        ledger, account_id = self.one_of(self.world.not_open) or (MAIN, self.account(MAIN))
        if self.draw.random() < 0.7:
            ledger, account_id = MAIN, self.world.accounts[MAIN][OFTEN_EMPTY]
        self.change("reopen_account", ledger, account_id, reason=None)

    def set_limit(self) -> None:
        ledger = self.ledger()
        kind = self.draw.choice(("overdraft", *LIMIT_KINDS))
        amount = self.draw.choice((None, None, self.draw.randint(100, 20_000)))
        if kind == "overdraft":
            amount = self.draw.choice((0, 200, 1000))
        count = self.draw.choice((None, self.draw.randint(50, 500))) if kind in WINDOWS else None
        account_id = self.account(ledger)
        if kind == "minimum_balance" and account_id == self.world.accounts[MAIN][OFTEN_EMPTY]:
            kind = "maximum_balance"
        self.change("set_limit", ledger, account_id, limit_kind=kind, amount_max_minor=amount, count_max=count)

    def stripe(self) -> None:
        ledger = self.ledger()
        unlimited = [a for a in self.world.accounts[ledger] if self.world.places[a].overdraft is None]
        self.change("stripe_account", ledger, self.draw.choice(unlimited), stripes=self.draw.choice((1, 2, 4, 64)))

    def open_account(self) -> None:
        if self.world.opened >= OPENED_MAX:
            self.credit()
            return
        self.world.opened += 1
        ledger = self.ledger()
        place = Place(ledger, self.draw.choice(("EUR", "JPY")), self.draw.choice((0, 100, None)))
        call = self.make(
            "open_account",
            currency=place.currency,
            overdraft_limit_minor=place.overdraft,
            ledger_id=self.world.ledgers[ledger],
        )
        account_id = call.row()["account_id"]
        self.world.places[account_id] = place
        self.world.accounts[ledger].append(account_id)

    def end_expired_holds(self) -> None:
        self.make("end_expired_holds")

    def again(self) -> None:
        """Make a call that somebody makes or made a moment ago, under the same key."""
        drawn = self.one_of(self.world.keyed)
        if drawn and drawn[0] in CHANGES:
            self.make(drawn[0], **drawn[1])
        elif drawn:
            self.record(*drawn)

    def another_question(self) -> None:
        """Ask something else under a key that somebody uses."""
        function, arguments = self.one_of(self.world.keyed) or ("", {})
        changed = dict(arguments)
        for name in ("force", "final", "atomic"):
            if name in changed:
                changed[name] = not changed[name]
        for name in ("amount_minor", "at_most_minor"):
            if name in changed:
                changed[name] = self.amount()
        if "idempotency_key" in changed:
            self.record(function, changed)

    def change(self, function: str, ledger: int, account_id: int, **arguments: Any) -> None:
        self.make(function, account_id=account_id, **arguments, ledger_id=self.world.ledgers[ledger])

    def one_of(self, things: deque[Any]) -> Any:
        """Return one of the newest, or None when there is nothing."""
        return things[-1 - min(int(self.draw.expovariate(0.1)), len(things) - 1)] if things else None


MIX: list[tuple[Callable[[Session], None], float]] = [
    (Session.credit, 10),
    (Session.debit, 8),
    (Session.transfer, 16),
    (Session.batch, 8),
    (Session.legs, 7),
    (Session.sweep, 4),
    (Session.authorise, 10),
    (Session.capture, 10),
    (Session.void, 4),
    (Session.reverse, 8),
    (Session.exchange, 5),
    (Session.transfer_to_ledger, 5),
    (Session.freeze, 1),
    (Session.unfreeze, 2),
    (Session.close_account, 1.5),
    (Session.reopen, 2),
    (Session.set_limit, 2),
    (Session.stripe, 0.5),
    (Session.open_account, 0.5),
    (Session.end_expired_holds, 0.5),
    (Session.again, 6),
    (Session.another_question, 2),
]
KINDS = [kind for kind, _ in MIX]
WEIGHTS = [weight for _, weight in MIX]


def open_world(bank: Bank, owner: Connection) -> tuple[World, Session]:
    """Make two ledgers with the accounts of PLACES, every call on the record of the session that is returned."""
    world = World([ask(owner, "create_ledger", "Traffic")["ledger_id"] for _ in range(2)], {MAIN: [], BRANCH: []})
    first = Session(bank, world, isolation="read committed", seed="opening")
    first.open()
    for place in PLACES:
        ledger_id = world.ledgers[place.ledger]
        opened = first.make(
            "open_account", currency=place.currency, overdraft_limit_minor=place.overdraft, ledger_id=ledger_id
        )
        account_id = opened.row()["account_id"]
        world.places[account_id] = place
        world.accounts[place.ledger].append(account_id)
        if place.stripes:
            first.change("stripe_account", place.ledger, account_id, stripes=place.stripes)
        first.make("credit", account_id=account_id, amount_minor=4000, idempotency_key=None, ledger_id=ledger_id)
        for kind, amount, count in place.limits:
            first.change(
                "set_limit", place.ledger, account_id, limit_kind=kind, amount_max_minor=amount, count_max=count
            )
    return world, first


def run(bank: Bank, world: World, *, isolation: str, seed: int, calls: int) -> tuple[list[Session], float]:
    """Let the sessions make so many calls in all; return them, and how many seconds it took."""
    sessions = [Session(bank, world, isolation=isolation, seed=f"{seed}-{number}") for number in range(SESSIONS)]
    barrier = Barrier(SESSIONS)

    def live(session: Session) -> None:
        session.open()
        try:
            barrier.wait(BARRIER_SECONDS)
            for _ in range(calls // SESSIONS):
                session.step()
        finally:
            session.close()

    with ThreadPoolExecutor(SESSIONS) as executor:
        began = time.monotonic()
        for future in [executor.submit(live, session) for session in sessions]:
            future.result()
        return sessions, time.monotonic() - began
