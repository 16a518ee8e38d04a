"""What several sessions were answered, replayed one call after another through the model of a bank.

Which order? Each call locks all that it decides on, then reads the clock, and lets go at the commit. Of two calls that
lock the same row the second reads the clock after the first one's commit, so the order of their times is the order in
which they saw each other. Two that lock nothing in common commute: stripes of one account are different rows, and what
a posting decides about a striped account (its state, its currency) is changed only by who locks all of its stripes. So
the order of the times in the books is one of the orders in which the calls could have been made one after another, and
everything that the bank answered must be what the model answers in it:

- a posting is at the created_at of its transaction; items of one bank.post have one time, and are one call here;
- a transfer to another ledger locks there after it read the clock here, so it is at the time at which it had returned
  and was not committed (Call.made_at), when everything was still locked; the same goes for what writes no time at all,
  stripe_account and a change that changes nothing;
- other changes of accounts are at the changed_at of the change that they noted;
- a hold expires at its ended_at: who ends it has locked the account. Nobody may post a debit over it a second after its
  deadline, so that this does not excuse an expired hold that goes on counting. A call whose deadline passes while it is
  made may have looked before it (a sweep looks, then posts);
- what was replayed or raised left nothing behind and has no time: there must be a moment between its start and its
  end at which the model answers the same;
- so must there be for what was rejected after a part of it was taken back (a forced reversal, a transfer to another
  ledger), because locks are let go with that; such a rejection is recorded as it was found.
"""

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.concurrency.traffic import ACCOUNT, ACCOUNT_FUNCTIONS, POSTING, Arguments, Call
from tests.conftest import Connection
from tests.helpers import Row
from tests.sql.model import Account, Bank, Hold, Limit, Refused, Transaction, shown

OVERDUE_MAX = timedelta(seconds=1)
EVENTS_OF_A_COMPLAINT = 12
EXPIRED_LATELY_MAX = 16
DIFFERENCES_SHOWN = 5
PAGE = 5000
BEGINNING, END = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))


@dataclass
class Books:
    """What the bank wrote down about the calls, beyond what it answered: times, and names of its own accounts."""

    changed_at: dict[str, datetime]
    ended_at: list[tuple[datetime, int, int]]
    book_ids: dict[tuple[int, str, str], int]

    @classmethod
    def read(cls, owner: Connection, ledgers: list[int]) -> "Books":
        changes = owner.execute(
            "select changed_by, changed_at from bank.account_change"
            " where ledger_id = any(%s) and change_type <> 'overdraft_forced'",
            [ledgers],
        ).fetchall()
        times = {row["changed_by"]: row["changed_at"] for row in changes}
        assert len(times) == len(changes), "a change was made twice"
        ended = owner.execute(
            "select ended_at, ledger_id, hold_id from bank.hold where ledger_id = any(%s) and hold_status = 'expired'",
            [ledgers],
        ).fetchall()
        books = owner.execute(
            "select ledger_id, account_id, currency, split_part(lower(holder_name), ' ', 1) as purpose"
            " from bank.account where ledger_id = any(%s) and stripes >= 0 and (settlement or liquidity or clearing)",
            [ledgers],
        ).fetchall()
        return cls(
            times,
            [(row["ended_at"], row["ledger_id"], row["hold_id"]) for row in ended],
            {(row["ledger_id"], row["purpose"], row["currency"]): row["account_id"] for row in books},
        )


@dataclass(slots=True)
class Doubt:
    """A call that the model must answer likewise at some moment before its end."""

    call: Call
    until: datetime


@dataclass
class Replay:
    """The model, and how far it has come."""

    books: Books
    model: Bank = field(default_factory=lambda: Bank(stripe_choice=0))
    doubts: list[Doubt] = field(default_factory=list)
    at_a_deadline: int = 0
    now: datetime = BEGINNING
    _past: list[str] = field(default_factory=list)
    _expired: deque[tuple[Account, Hold]] = field(default_factory=lambda: deque(maxlen=EXPIRED_LATELY_MAX))

    def run(self, calls: list[Call]) -> None:
        """Replay everything; raises AssertionError where the model answers something else."""
        timed: list[tuple[datetime, int, int, Call]] = []
        doubtful: list[tuple[datetime, int, Doubt]] = []
        for number, call in enumerate(calls):
            moment = self.moment_of(call)
            if call.function == "end_expired_holds":
                continue
            if moment is not None:
                assert call.started <= moment[0] <= call.ended, ("not within the call", call)
                timed.append((*moment, number, call))
            if moment is None:
                doubtful.append((call.started, number, Doubt(call, call.ended)))
        timed.sort()
        doubtful.sort(reverse=True)
        expiries = sorted(self.books.ended_at, reverse=True)

        for time, _, _, call in timed:
            while doubtful and doubtful[-1][0] < time:
                started, _, doubt = doubtful.pop()
                self._expire(expiries, started)
                self.doubts.append(doubt)
                self._settle()
            self._expire(expiries, time)
            self._complain_about_what_is_over(time)
            self._move_to(time)
            self._apply(call)
            self._settle()
        for _, _, doubt in reversed(doubtful):
            self.doubts.append(doubt)
        self._expire(expiries, END)
        self._settle()
        self._complain_about_what_is_over(END)

    def moment_of(self, call: Call) -> tuple[datetime, int] | None:
        """Return the moment of a call, and the transaction_id that tells it from others of this moment."""
        if call.made_at is None:
            return None
        if call.function in ACCOUNT_FUNCTIONS:
            return self.books.changed_at.get(call.token, call.made_at), 0
        if call.function == "end_expired_holds":
            return None
        recorded = [
            row for row in map(call.row, range(len(call.rows))) if row["transaction_id"] and not row["replayed"]
        ]
        if recorded and (call.function != "transfer_to_ledger" or recorded[0]["failure_code"]):
            return min((row["created_at"], row["transaction_id"]) for row in recorded)
        if recorded or call.function == "post":
            return call.made_at, 0
        return None

    # One call

    def _apply(self, call: Call) -> None:
        self._past.append(f"{self.now} {call.function} {call.arguments} {[row[:4] for row in call.rows]}")
        del self._past[:-EVENTS_OF_A_COMPLAINT]
        passed = [(account, hold) for account, hold in self._expired if call.started <= (hold.expires_at or BEGINNING)]
        before = self.model.savepoint() if passed else None
        answer = self._ask(call)
        difference = self._differs(call, answer)
        if difference and passed:
            self.model.roll_back(before)
            answer = self._ask_before(call, passed)
            difference = self._differs(call, answer)
            self.at_a_deadline += not difference
        assert not difference, self._complaint(call, difference)
        self._learn(call, answer)

    def _ask(self, call: Call) -> Any:
        answer = _answer(self.model, call.function, call.arguments)
        self._name_books()
        return answer

    def _ask_before(self, call: Call, passed: list[tuple[Account, Hold]]) -> Any:
        """Let the model answer as if these holds had expired only afterwards."""
        for account, hold in passed:
            hold.status = "open"
            account.holds = [*(other for other in account.holds if other is not hold), hold]
        answer = self._ask(call)
        for _, hold in passed:
            hold.status = "expired"
        return answer

    def _differs(self, call: Call, answer: Any) -> Any:
        """Return what the model answers otherwise, or nothing."""
        if isinstance(answer, str) or call.error:
            return answer != call.error and (answer if isinstance(answer, str) else "an answer", call.error)
        if isinstance(answer, Account):
            return self._account_differs(call, answer)
        outcomes = answer if isinstance(answer, list) else [answer]
        for number, outcome in enumerate(outcomes):
            row = call.row(number)
            if isinstance(outcome, str):
                if (row["transaction_id"], row["failure_code"]) != (None, outcome):
                    return outcome, row
                continue
            expected = outcome.row()
            if not outcome.replayed:
                # Only the bank knows these.
                expected["transaction_id"] = row["transaction_id"]
                if outcome.transaction.kind == "cross_ledger":
                    expected["original_transaction_id"] = row["original_transaction_id"]
            if row["transaction_id"] is None or shown(row, expected) != expected:
                return expected, row
        return None

    @staticmethod
    def _account_differs(call: Call, account: Account) -> Any:
        row, expected = call.row(), account.row()
        if account.account_id is None:
            expected["account_id"] = row["account_id"]
        if any(hold.expires_at for hold in account.holds):
            # Whether a hold counts that is at its deadline, only who reads knows.
            del expected["held_minor"], expected["available_balance_minor"]
        return shown(row, expected) != expected and (expected, row)

    def _learn(self, call: Call, answer: Any) -> None:
        """Take over the ids that the bank gave."""
        if isinstance(answer, Account):
            answer.account_id = call.row()["account_id"]
        elif not isinstance(answer, str):
            outcomes = answer if isinstance(answer, list) else [answer]
            for number, outcome in enumerate(outcomes):
                if not isinstance(outcome, str) and not outcome.replayed:
                    row = call.row(number)
                    outcome.transaction.transaction_id = row["transaction_id"]
                    if outcome.transaction.kind == "cross_ledger" and outcome.transaction.original:
                        outcome.transaction.original.transaction_id = row["original_transaction_id"]
                    self._check_deadlines(outcome.transaction)

    def _check_deadlines(self, transaction: Transaction) -> None:
        for account, amount in transaction.movements:
            for hold in account.holds if amount < 0 else ():
                overdue = hold.status == "open" and hold.expires_at and hold.expires_at + OVERDUE_MAX < self.now
                assert not overdue, (transaction.row(), hold)

    def _name_books(self) -> None:
        for name, book in self.model.books.items():
            if book.account_id is None:
                book.account_id = self.books.book_ids[name]

    # What has no time of its own

    def _settle(self) -> None:
        """Ask the model about what is in doubt; what it answers likewise is not in doubt any more."""
        still: list[Doubt] = []
        for doubt in self.doubts:
            call = doubt.call
            if call.error == "invalid_argument" and call.arguments["expires_at"] <= call.ended:
                continue  # an authorisation that came after its deadline
            before = self.model.savepoint()
            answer = self._ask(call)
            likewise = not self._differs(call, answer)
            self.model.roll_back(before)
            if not likewise:
                still.append(doubt)
        self.doubts = still

    def _complain_about_what_is_over(self, time: datetime) -> None:
        over = [doubt for doubt in self.doubts if doubt.until < time]
        self.doubts = [doubt for doubt in self.doubts if doubt.until >= time]
        for doubt in over:
            answer = _answer(self.model, doubt.call.function, doubt.call.arguments)
            raise AssertionError(self._complaint(doubt.call, self._differs(doubt.call, answer)))

    def _complaint(self, call: Call, difference: Any) -> str:
        lines = ["the model answers otherwise (model, bank):", f"{difference}", f"{call}", "after", *self._past]
        return "\n".join(lines)

    # Time

    def _expire(self, expiries: list[tuple[datetime, int, int]], until: datetime) -> None:
        while expiries and expiries[-1][0] <= until:
            ended_at, ledger_id, hold_id = expiries.pop()
            account, hold = self.model.end_hold(hold_id, ledger_id)
            assert hold.expires_at
            assert hold.expires_at <= ended_at
            self._expired.append((account, hold))
            self._past.append(f"{ended_at} hold {hold_id} expires")

    def _move_to(self, time: datetime) -> None:
        """Let the windows of limits begin anew where a day, a week or a month does."""
        if self.now.date() != time.date() and self.now != BEGINNING:
            ended = {"day": True, "week": time.isocalendar()[:2] != self.now.isocalendar()[:2]}
            ended["month"] = (time.year, time.month) != (self.now.year, self.now.month)
            for account in self.model.accounts:
                for kind, limit in account.limits.items():
                    if ended.get(kind):
                        limit.used_minor = limit.used_count = 0
        self.now = time


def _answer(model: Bank, function: str, arguments: Arguments) -> Any:
    try:
        return getattr(model, function)(**arguments)
    except Refused as refused:
        model.forget_unnamed_books()
        return refused.code


# What is left in the end


def check_that_the_books_are_what_was_answered(owner: Connection, ledgers: list[int], calls: Iterable[Call]) -> None:
    """Everything that was answered is recorded once, and nothing else is."""
    answered: dict[tuple[int, int], Row] = {}
    others: dict[tuple[int, int], tuple[int, int]] = {}
    for call in calls:
        if call.function in ACCOUNT_FUNCTIONS or call.function == "end_expired_holds":
            continue
        for number in range(len(call.rows)):
            row = call.row(number)
            if row["transaction_id"] is None or row["replayed"]:
                continue
            name = row["ledger_id"], row["transaction_id"]
            assert name not in answered, ("answered twice", row)
            answered[name] = row
            if row["transaction_type"] == "cross_ledger" and row["failure_code"] is None:
                others[row["counterpart_ledger_id"], row["original_transaction_id"]] = name
    for call in calls:
        if call.function not in ACCOUNT_FUNCTIONS and call.function != "end_expired_holds":
            for row in map(call.row, range(len(call.rows))):
                if row["replayed"] and row["transaction_id"] is not None:
                    assert {**row, "replayed": False} == answered[row["ledger_id"], row["transaction_id"]]
    for row in _pages(owner, f"select {', '.join(POSTING)} from bank.posting where ledger_id = any(%s)", ledgers):
        name = row["ledger_id"], row["transaction_id"]
        if name in others:
            ours = others.pop(name)
            assert (row["counterpart_ledger_id"], row["original_transaction_id"]) == ours
            assert row["transaction_status"] == "success"
            continue
        assert answered.pop(name, None) == row, row
    assert not answered, ("acknowledged, and not in the bank", list(answered.values())[:3])
    assert not others, ("the other side is missing", others)


def check_that_the_books_are_the_model_s(owner: Connection, ledgers: list[int], model: Bank) -> None:
    """Compare balances, states, holds, limits, changes, and every entry in the order of versions."""
    found = owner.execute(
        f"select {', '.join(ACCOUNT)} from bank.account_detail where ledger_id = any(%s)", [ledgers]
    ).fetchall()
    _check_equal(
        {row["account_id"]: row for row in found}, {account.account_id: account.row() for account in model.accounts}
    )
    for account in model.accounts:
        lines = _pages(
            owner,
            "select version, amount_minor, balance_after_minor from bank.entry"
            " where ledger_id = any(%s) and bank._account_of(account_id) = %s order by account_id, version",
            ledgers,
            account.account_id,
        )
        if account.stripes:  # each stripe has versions of its own, and passes the others
            _check_equal(
                Counter(line["amount_minor"] for line in lines), Counter(amount for _, amount, _ in account.lines)
            )
        else:
            entries = [(line["version"], line["amount_minor"], line["balance_after_minor"]) for line in lines]
            _check_equal(dict(enumerate(entries)), dict(enumerate(account.lines)))
    holds = owner.execute("select * from bank.hold where ledger_id = any(%s)", [ledgers]).fetchall()
    _check_equal(
        {
            (row["ledger_id"], row["hold_id"]): Hold(
                row["amount_minor"],
                row["tolerance_minor"],
                row["expires_at"],
                row["captured_minor"],
                row["hold_status"],
            )
            for row in holds
        },
        {(t.ledger_id, t.transaction_id): t.hold for t in model.transactions if t.hold},
    )
    limits = owner.execute("select * from bank.limit_detail where ledger_id = any(%s)", [ledgers]).fetchall()
    _check_equal(
        {
            (row["account_id"], row["limit_kind"]): Limit(
                *(row[name] for name in ("amount_max_minor", "count_max", "used_minor", "used_count"))
            )
            for row in limits
        },
        {(a.account_id, kind): limit for a in model.accounts for kind, limit in a.limits.items()},
    )
    changes = owner.execute("select * from bank.account_change where ledger_id = any(%s)", [ledgers]).fetchall()
    _check_equal(
        {(row["account_id"], row["change_number"]): row["change_type"] for row in changes},
        {(a.account_id, number): change for a in model.accounts for number, change in enumerate(a.changes, 1)},
    )


def _check_equal(found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> None:
    names = {name for name in [*found, *expected] if found.get(name) != expected.get(name)}
    assert not names, [(name, found.get(name), expected.get(name)) for name in list(names)[:DIFFERENCES_SHOWN]]


def _pages(owner: Connection, query: str, *parameters: Any) -> Iterator[Row]:
    """Read a long answer a page at a time."""
    with owner.transaction(), owner.cursor("pages") as cursor:
        cursor.itersize = PAGE
        cursor.execute(query.encode(), parameters)
        yield from cursor


def in_order(calls: Iterable[list[Call]]) -> list[Call]:
    """Return the calls of all sessions in the order in which they began."""
    return list(heapq.merge(*calls, key=lambda call: call.started))
