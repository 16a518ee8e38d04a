"""Requests of every kind, drawn at random, and the two ways to send each: over HTTP and over SQL.

Both ways mean the same request, so that a retry may go the other way than the first attempt.
"""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from service.installation import error_catalogue
from tests.conftest import Bank
from tests.faults.scene import CLIENT
from tests.helpers import Row, call_all
from tests.http_server import HttpServer

MAIN, BRANCH = 1, 2
STATEMENT_TIMEOUT_SECONDS = 15
KNOWN = [
    "transaction_id",
    "transaction_type",
    "transaction_status",
    "failure_code",
    "amount_minor",
    "currency",
    "debit_account_id",
    "credit_account_id",
    "original_transaction_id",
    "counterpart_ledger_id",
    "legs",
]
"""What a client keeps of an answer."""
REFUSALS = {
    "authorise": {"invalid_argument"},  # a retry came after the deadline, and the first attempt never arrived
    "limit": {"limit_passed_already"},
    "close": {"account_not_empty"},
}
"""Errors, not recorded, that the kind may be answered with for good."""


@dataclass(frozen=True)
class Request:
    """What one function is asked, and the same as HTTP. It is sent until an answer is final."""

    kind: str
    key: str
    ledger_id: int
    function: str
    arguments: Row
    method: str
    path: str
    body: Row
    facts: dict[str, Row] = field(default_factory=dict)
    """By idempotency key, what the request says of its transaction; empty: it records none."""
    dry_run: bool = False


@dataclass(frozen=True)
class Answer:
    """A final one: the error code if there was one, and for each key that was recorded what is known of it."""

    code: str | None
    rows: dict[str, Row] = field(default_factory=dict)
    account_id: int | None = None


class Again(Exception):
    """The outcome is not known, or nothing was done: the same request is to be sent again."""


class Wrong(Again):
    """An answer that is never right. It is sent again all the same, so that the run goes on."""


@dataclass
class World:
    """The accounts, and what the clients tell each other. Threads share it: appending is atomic."""

    plain: list[int]
    striped: list[int]
    limited: list[int]
    metered: int
    """Has a limit that nobody changes, so that what is used of it is known."""
    freezable: list[int]
    foreign: list[int]
    branch: list[int]
    opened: list[int] = field(default_factory=list)
    holds: list[int] = field(default_factory=list)
    reversible: list[tuple[int, int, bool]] = field(default_factory=list)
    """transaction_id, amount, and whether it has legs."""

    @property
    def unstriped(self) -> list[int]:
        """Accounts in EUR that can have holds, and be swept."""
        return [*self.plain, *self.limited, self.metered, *self.freezable, *self.opened[-3:]]

    def learn(self, request: Request, answer: Answer) -> None:
        """Let others capture and reverse what this one posted."""
        if answer.account_id is not None:
            self.opened.append(answer.account_id)
        for row in answer.rows.values():
            if request.ledger_id == MAIN and row["transaction_status"] == "success":
                if row["transaction_type"] == "hold":
                    self.holds.append(row["transaction_id"])
                elif row["transaction_type"] not in ("void", "reversal", "cross_ledger"):
                    self.reversible.append((row["transaction_id"], row["amount_minor"], row["legs"] is not None))


class Client:
    """One client's endless list of requests."""

    def __init__(self, world: World, seed: str) -> None:
        self.world = world
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311 - of a test
        self.numbers = itertools.count(1)

    def requests(self) -> Iterator[Request]:
        kinds, weights = list(KINDS), list(KINDS.values())
        while True:
            kind = self.random.choices(kinds, weights)[0]
            key = f"{self.seed}-{next(self.numbers)}"
            request: Request | None = getattr(self, kind)(key)
            if request is not None:
                yield request

    # ---- what they are made of

    def amount(self) -> int:
        return self.random.randint(1, self.random.choice([100, 2_000, 200_000]))

    def two(self) -> tuple[int, int]:
        one, two = self.random.choices([*self.world.unstriped, *self.world.striped], k=2)
        return one, two

    def posting(
        self, kind: str, key: str, function: str, path: str, body: Row, *, ledger_id: int = MAIN, **facts: object
    ) -> Request:
        """Return a request whose body names its arguments as the function does, and the rest is in facts."""
        body = {"description": kind, **body}
        arguments = {**body, "idempotency_key": key, "ledger_id": ledger_id}
        return Request(kind, key, ledger_id, function, arguments, "POST", path, body, {key: facts | body_facts(body)})

    def change(self, kind: str, key: str, function: str, account_id: int, suffix: str, **arguments: object) -> Request:
        """Return a change of an account, whose history names the key."""
        put = kind in ("limit", "stripes")
        body = arguments if kind == "stripes" else {**arguments, "reason": key}
        path = f"/v1/accounts/{account_id}/{suffix}"
        all_arguments: Row = {"account_id": account_id, **body}
        if kind == "limit":
            all_arguments["limit_kind"] = suffix.removeprefix("limits/")
        return Request(kind, key, MAIN, function, all_arguments, "PUT" if put else "POST", path, body)

    # ---- kinds

    def credit(self, key: str) -> Request:
        world, ledger_id = self.world, MAIN
        account_id = self.random.choice([*self.two(), *world.foreign, *world.branch])
        if account_id in world.branch and self.random.random() < 0.5:
            ledger_id = BRANCH  # ids count over both ledgers
        elif account_id in world.branch:
            account_id = world.metered
        return self.credit_of(key, account_id, self.amount(), ledger_id)

    def credit_of(self, key: str, account_id: int, amount_minor: int, ledger_id: int = MAIN) -> Request:
        request = self.posting(
            "credit",
            key,
            "credit",
            f"/v1/accounts/{account_id}/credit",
            {"amount_minor": amount_minor},
            ledger_id=ledger_id,
            transaction_type="credit",
            credit_account_id=account_id,
        )
        request.arguments["account_id"] = account_id
        return request

    def debit(self, key: str) -> Request:
        account_id, beneficiary = self.two()
        body: Row = {"amount_minor": self.amount()}
        facts: Row = {"transaction_type": "debit", "debit_account_id": account_id}
        if self.random.random() < 0.5:
            body["beneficiary_account_id"] = beneficiary
        request = self.posting("debit", key, "debit", f"/v1/accounts/{account_id}/debit", body, **facts)
        request.arguments["account_id"] = account_id
        return request

    def naming(self, key: str, account_id: int) -> Request:
        """Return a request that waits for this account if it is locked."""
        kind = self.random.choice(["credit", "transfer", "authorise"])
        if kind == "credit":
            return self.credit_of(key, account_id, self.amount())
        return self.transfer(key, account_id) if kind == "transfer" else self.authorise(key, account_id)

    def transfer(self, key: str, debit_account_id: int | None = None) -> Request:
        debit, credit = self.two()
        debit = debit_account_id or debit
        body = {"debit_account_id": debit, "credit_account_id": credit, "amount_minor": self.amount()}
        return self.posting("transfer", key, "transfer", "/v1/transfers", body, transaction_type="transfer")

    def dry_run(self, key: str) -> Request:
        made = self.random.choice([self.authorise, self.exchange, self.legs, self.ledger_transfer, self.transfer])(key)
        return Request(
            "dry_run",
            key,
            made.ledger_id,
            made.function,
            made.arguments,
            made.method,
            made.path,
            made.body,
            dry_run=True,
        )

    def explain(self, key: str) -> Request:
        debit, credit = self.two()
        body = {"debit_account_id": debit, "credit_account_id": credit, "amount_minor": self.amount()}
        arguments = {**body, "ledger_id": MAIN}
        return Request("explain", key, MAIN, "explain_transfer", arguments, "POST", "/v1/transfers/explain", body)

    def authorise(self, key: str, account_id: int | None = None) -> Request:
        account_id = account_id or self.random.choice(self.world.unstriped)
        body: Row = {
            "account_id": account_id,
            "amount_minor": self.amount(),
            "tolerance_minor": self.random.choice([0, 0, 10]),
        }
        if self.random.random() < 0.7:
            body["beneficiary_account_id"] = self.random.choice(self.two())
        if self.random.random() < 0.4:
            deadline = datetime.now(UTC) + timedelta(seconds=self.random.uniform(0.5, 5))
            body["expires_at"] = deadline.isoformat()
        facts: Row = {"transaction_type": "hold", "debit_account_id": account_id}
        return self.posting("authorise", key, "authorise", "/v1/holds", body, **facts)

    def capture(self, key: str) -> Request | None:
        if not self.world.holds:
            return None
        hold_id = self.random.choice(self.world.holds[-12:])
        body: Row = {"final": self.random.random() < 0.3}
        if self.random.random() < 0.6:
            body["amount_minor"] = self.random.randint(1, 500)
        facts: Row = {"transaction_type": "capture", "original_transaction_id": hold_id}
        request = self.posting("capture", key, "capture", f"/v1/holds/{hold_id}/capture", body, **facts)
        request.arguments["hold_id"] = hold_id
        return request

    def void(self, key: str) -> Request | None:
        if not self.world.holds:
            return None
        hold_id = self.random.choice(self.world.holds[-12:])
        facts: Row = {"transaction_type": "void", "original_transaction_id": hold_id}
        request = self.posting("void", key, "void", f"/v1/holds/{hold_id}/void", {}, **facts)
        request.arguments["hold_id"] = hold_id
        return request

    def reverse(self, key: str) -> Request | None:
        if not self.world.reversible:
            return None
        transaction_id, amount_minor, has_legs = self.random.choice(self.world.reversible[-12:])
        body: Row = {"force": self.random.random() < 0.2}
        if not has_legs and self.random.random() < 0.7:
            body["amount_minor"] = self.random.randint(1, amount_minor)
        facts: Row = {"transaction_type": "reversal", "original_transaction_id": transaction_id}
        path = f"/v1/transactions/{transaction_id}/reverse"
        request = self.posting("reverse", key, "reverse", path, body, **facts)
        request.arguments["transaction_id"] = transaction_id
        return request

    def legs(self, key: str) -> Request:
        accounts = self.random.choices([*self.world.unstriped, *self.world.striped], k=self.random.randint(2, 5))
        amounts = [self.amount() for _ in accounts[1:]]
        amounts_minor = [-sum(amounts), *amounts]
        conditions: list[Row] = []
        if self.random.random() < 0.3:
            account_id = self.random.choice(self.world.plain)
            conditions = [{"account_id": account_id, "balance_at_least_minor": 0}] if account_id in accounts else []
        return self.legs_of(key, accounts, amounts_minor, conditions)

    def legs_of(self, key: str, accounts: list[int], amounts_minor: list[int], conditions: list[Row]) -> Request:
        legs = [{"account_id": a, "amount_minor": n} for a, n in zip(accounts, amounts_minor, strict=True)]
        request = self.posting(
            "legs",
            key,
            "post_legs",
            "/v1/transactions",
            {"legs": legs, "conditions": conditions},
            transaction_type="compound",
            leg_account_ids=accounts,
            leg_amounts_minor=amounts_minor,
        )
        del request.arguments["legs"]
        request.arguments.update(account_ids=accounts, amounts_minor=amounts_minor, conditions=json.dumps(conditions))
        return request

    def exchange(self, key: str) -> Request:
        sides = [self.random.choice(self.world.foreign), self.random.choice(self.two())]
        self.random.shuffle(sides)
        body = {
            "debit_account_id": sides[0],
            "credit_account_id": sides[1],
            "amount_minor": self.amount(),
            "rate": str(self.random.choice(["1.0837", "0.92", "163.25", "0.00613"])),
        }
        return self.posting("exchange", key, "exchange", "/v1/exchanges", body, transaction_type="exchange")

    def sweep(self, key: str) -> Request:
        debit, credit = self.random.choice(self.world.unstriped), self.two()[1]
        body: Row = {"debit_account_id": debit, "credit_account_id": credit}
        if self.random.random() < 0.8:
            body["at_most_minor"] = self.amount()
        return self.posting("sweep", key, "sweep", "/v1/sweeps", body, transaction_type="transfer")

    def batch(self, key: str) -> Request:
        atomic, group, items = self.random.random() < 0.2, 1, []
        for _ in range(self.random.randint(2, 8)):
            debit, credit = self.two()
            item: Row = {"debit_account_id": debit, "credit_account_id": credit, "amount_minor": self.amount()}
            if self.random.random() < 0.5:
                item["group"] = group
            else:
                group += 1
            items.append(item)
        keys = [f"{key}:{number}" for number in range(1, len(items) + 1)]
        groups = ",".join(str(item.get("group", "null")) for item in items)
        arguments: Row = {name: [item[name] for item in items] for name in ("debit_account_id", "credit_account_id")}
        arguments = {f"{name}s": values for name, values in arguments.items()}
        arguments |= {
            "amounts_minor": [item["amount_minor"] for item in items],
            "idempotency_keys": keys,
            "atomic": atomic,
            "groups": f"{{{groups}}}",
            "ledger_id": MAIN,
        }
        facts = {
            key: {"transaction_type": "transfer", **body_facts(item)} for key, item in zip(keys, items, strict=True)
        }
        body = {"transfers": items, "atomic": atomic}
        path = "/v1/transfers/batch"
        return Request("batch", key, MAIN, "post_transfers", arguments, "POST", path, body, facts)

    def ledger_transfer(self, key: str) -> Request:
        ours, theirs = (MAIN, self.random.choice(self.two())), (BRANCH, self.random.choice(self.world.branch))
        if self.random.random() < 0.5:
            ours, theirs = theirs, ours
        body = {
            "debit_account_id": ours[1],
            "credit_ledger_id": theirs[0],
            "credit_account_id": theirs[1],
            "amount_minor": self.amount(),
        }
        request = self.posting(
            "ledger_transfer", key, "transfer_to_ledger", "/v1/ledger-transfers", body, ledger_id=ours[0]
        )
        facts: Row = {"transaction_type": "cross_ledger", "counterpart_ledger_id": theirs[0]}
        request.facts[key].update(facts)
        del request.facts[key]["credit_account_id"]  # in the row it is the clearing account
        return request

    def freeze(self, key: str) -> Request:
        account_id = self.random.choice(self.world.freezable)
        what = self.random.choice([{}, {"debits": False}, {"credits": False}])
        return self.change("freeze", key, "freeze_account", account_id, "freeze", **what)

    def unfreeze(self, key: str) -> Request:
        return self.change("unfreeze", key, "unfreeze_account", self.random.choice(self.world.freezable), "unfreeze")

    def limit(self, key: str) -> Request:
        account_id = self.random.choice(self.world.limited)
        kind = self.random.choice(["minimum_balance", "maximum_balance", "transaction", "day", "week", "overdraft"])
        what: Row = {"amount_max_minor": self.random.choice([0, 10_000, 1_000_000])}
        if self.random.random() < 0.5:
            what = {"amount_max_minor": 0 if kind == "overdraft" else None}
        elif kind in ("day", "week"):
            what["count_max"] = self.random.choice([10, 10_000])
        return self.change("limit", key, "set_limit", account_id, f"limits/{kind}", **what)

    def stripes(self, key: str) -> Request:
        account_id, stripes = self.random.choice(self.world.striped), self.random.randint(1, 8)
        return self.change("stripes", key, "stripe_account", account_id, "stripes", stripes=stripes)

    def open(self, key: str) -> Request:
        body: Row = {"holder_name": "Grace", "currency": "EUR", "external_id": key}
        arguments = {**body, "idempotency_key": key}
        return Request("open", key, MAIN, "open_account", arguments, "POST", "/v1/accounts", body)

    def close(self, key: str) -> Request | None:
        if not self.world.opened:
            return None
        account_id = self.random.choice(self.world.opened[-20:])
        return self.change("close", key, "close_account", account_id, "close")

    def reopen(self, key: str) -> Request | None:
        if not self.world.opened:
            return None
        account_id = self.random.choice(self.world.opened[-20:])
        return self.change("reopen", key, "reopen_account", account_id, "reopen")


KINDS = {
    "credit": 12,
    "debit": 8,
    "transfer": 12,
    "authorise": 12,
    "capture": 8,
    "void": 3,
    "reverse": 8,
    "legs": 8,
    "exchange": 6,
    "sweep": 4,
    "batch": 6,
    "ledger_transfer": 6,
    "dry_run": 2,
    "explain": 2,
    "freeze": 1,
    "unfreeze": 2,
    "limit": 2,
    "stripes": 1,
    "open": 1,
    "close": 1,
    "reopen": 1,
}
"""How often each is drawn; the names are methods of Client."""


def body_facts(body: Row) -> Row:
    """Return what a body says of its transaction under the same name."""
    facts = {name: value for name, value in body.items() if name in KNOWN and name != "legs" and value is not None}
    if "beneficiary_account_id" in body:
        facts["credit_account_id"] = body["beneficiary_account_id"]
    return facts


def known(row: Row) -> Row:
    return {name: row[name] for name in KNOWN}


def seen(row: Row) -> Row:
    """Return the row, and what requests say of legs."""
    if row["legs"] is None:
        return row
    account_ids, amounts_minor = zip(*[(leg["account_id"], leg["amount_minor"]) for leg in row["legs"]], strict=True)
    return row | {"leg_account_ids": list(account_ids), "leg_amounts_minor": list(amounts_minor)}


def final(request: Request, code: str, detail: Row, stopped_by: int | None = None) -> Answer:
    """Return the answer that an error is, recorded or not; raises AssertionError when it should not be."""
    rejected = error_catalogue()[code]["kind"] == "rejection"
    refusals = REFUSALS["authorise"] if request.dry_run else REFUSALS.get(request.kind, set())
    assert code in refusals or (rejected and (request.facts or request.dry_run)), f"{request}: {code} {detail}"
    if not rejected or request.dry_run:
        return Answer(code)
    key = list(request.facts)[(stopped_by or 1) - 1]
    row = {"transaction_id": detail["transaction_id"], "transaction_status": "failure", "failure_code": code}
    return Answer(code, {key: row})


def recorded(request: Request, rows: list[Row]) -> Answer:
    """Return the answer that rows are: of postings, if the request has keys."""
    if request.kind == "open":
        return Answer(None, account_id=rows[0]["account_id"])
    if not request.facts:
        return Answer(None)
    by_key = dict(zip(request.facts, rows, strict=True))
    codes = [row["failure_code"] for row in rows if row["failure_code"] not in (None, "batch_aborted")]
    return Answer(
        codes[0] if codes else None,
        {key: known(row) for key, row in by_key.items() if row["transaction_id"] is not None},
    )


class OverHttp:
    """The way through the service."""

    def __init__(self, http: HttpServer, keys: dict[int, str]) -> None:
        self._client = http.client()
        self._keys = keys

    def send(self, request: Request, timeout_seconds: float | None = None) -> Answer:
        """Send it once. With a timeout, do not wait for the answer any longer: the service works on."""
        headers = {"Authorization": f"Bearer {self._keys[request.ledger_id]}", "Idempotency-Key": request.key}
        try:
            answer = self._client.request(
                request.method,
                request.path,
                json=request.body,
                headers=headers,
                params={"dry_run": "true"} if request.dry_run else None,
                timeout=timeout_seconds or self._client.timeout,
            )
        except httpx.TransportError as error:
            raise Again(type(error).__name__) from None
        if answer.is_server_error:
            code = answer.json()["code"] if "json" in answer.headers.get("Content-Type", "") else answer.text
            allowed = answer.status_code == 503 and code in error_catalogue()
            raise (Again if allowed else Wrong)(f"{answer.status_code} {code}")
        body: Any = answer.json()
        if answer.is_success:
            return recorded(request, body.get("transfers", [body]))
        return final(request, body["code"], body, body.get("stopped_by"))

    def close(self) -> None:
        self._client.close()


class OverSql:
    """The way without the service: a connection of bank_app."""

    def __init__(self, bank: Bank) -> None:
        self._url = bank.app_url
        self._connection: psycopg.Connection[Row] | None = None

    def send(self, request: Request, timeout_seconds: float | None = None) -> Answer:
        """Send it once. The timeout is for HTTP: a statement that is given up is rolled back."""
        try:
            connection = self._connected()
            if request.dry_run:
                with connection.transaction(force_rollback=True):
                    rows = call_all(connection, request.function, **request.arguments)
            else:
                rows = call_all(connection, request.function, **request.arguments)
        except psycopg.OperationalError as error:
            if self._connection is not None and self._connection.broken:
                self.close()
            raise Again(f"SQL {error.sqlstate or 'connection lost'}") from None
        except psycopg.errors.ReadOnlySqlTransaction as error:
            raise Again(f"SQL {error.sqlstate}") from None
        except psycopg.Error as error:
            assert (error.sqlstate or "").startswith("TL"), f"{request}: {error!r}"
            return final(request, str(error.diag.message_primary), json.loads(error.diag.message_detail or "{}"))
        return recorded(request, rows)

    def _connected(self) -> psycopg.Connection[Row]:
        if self._connection is None:
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                row_factory=dict_row,
                application_name=CLIENT,
                options=f"-c statement_timeout={STATEMENT_TIMEOUT_SECONDS}s",
            )
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
