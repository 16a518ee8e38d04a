"""Accounts: opening one or many, reading one, and its balance."""

from typing import Annotated, Any

import falcon.asgi
import msgspec

from service.coalescer import Coalescer
from service.db import Pool, call, read
from service.requests import (
    LimitMinor,
    Request,
    Text,
    keys_of_items,
    read_body,
    read_id,
    read_idempotency_key,
)
from service.responses import answer, answer_opening


class OpenAccountRequest(Request, frozen=True):
    """The arguments of bank.open_account that are not in a header or the key."""

    holder_name: Text
    currency: Text
    overdraft_limit_minor: LimitMinor | None = 0
    external_id: Text | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    account_type: Text = "liability"


class OpeningItem(OpenAccountRequest, frozen=True):
    """One account: an element of each array of bank.open_accounts."""

    idempotency_key: Text | None = None


class OpenAccountsRequest(Request, frozen=True):
    """The accounts in order."""

    accounts: Annotated[list[OpeningItem], msgspec.Meta(min_length=1, max_length=10_000)]


class OpenAccount:
    """POST /v1/accounts: bank.open_account."""

    scope = "accounts:write"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Open an account."""
        body = await read_body(req, OpenAccountRequest)
        key, ledger_id = read_idempotency_key(req), req.context.principal.ledger_id
        [account] = await call(self._pool, "open_account", **body.arguments(), idempotency_key=key, ledger_id=ledger_id)
        answer_opening(resp, account)


class OpenAccounts:
    """POST /v1/accounts/batch: bank.open_accounts."""

    scope = "accounts:write"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer with an outcome for each account, in order; an item without a key has the header's and its number."""
        key = read_idempotency_key(req)
        items = (await read_body(req, OpenAccountsRequest)).accounts
        rows = await call(
            self._pool,
            "open_accounts",
            holder_names=[item.holder_name for item in items],
            currencies=[item.currency for item in items],
            overdraft_limits_minor=[item.overdraft_limit_minor for item in items],
            external_ids=[item.external_id for item in items],
            metadatas=[bytes(item.metadata).decode() for item in items],
            account_types=[item.account_type for item in items],
            idempotency_keys=keys_of_items(key, [item.idempotency_key for item in items], "accounts"),
            ledger_id=req.context.principal.ledger_id,
        )
        answer(resp, {"accounts": rows})


class Account:
    """GET /v1/accounts/{account_id}: bank.account."""

    scope = "accounts:read"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Read an account."""
        ledger_id = req.context.principal.ledger_id
        number = read_id(account_id, "account_id")
        [account] = await read(self._pool, "account", account_id=number, ledger_id=ledger_id)
        answer(resp, account)


class Balances(Coalescer[int, dict[str, Any] | None]):
    """Enquiries that wait together are one call of bank.balances, which reads all accounts at one moment."""

    function = "balances"
    reads = True
    flushes_max = 1  # a read waits for nobody, and one call at a time finds more to take with it

    def statement(self, ledger_id: int, items: list[int]) -> tuple[str, dict[str, Any]]:
        """Ask for each account once."""
        return "balances", {"account_ids": list(set(items)), "ledger_id": ledger_id}

    def answers(self, items: list[int], rows: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        """Return the balance of each account, in order; None for an account that does not exist."""
        balances = {row["account_id"]: row for row in rows}
        return [balances.get(account_id) for account_id in items]


class Balance:
    """GET /v1/accounts/{account_id}/balance: bank.balance."""

    scope = "accounts:read"

    def __init__(self, balances: Balances) -> None:
        self._balances = balances

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, account_id: str) -> None:
        """Read the balance of an account, together with what is read at the same moment."""
        ledger_id = req.context.principal.ledger_id
        number = read_id(account_id, "account_id")
        balance = await self._balances.submit(ledger_id, number)
        if balance is None:  # bank.balance says what is wrong with it
            [balance] = await read(self._balances.pool, "balance", account_id=number, ledger_id=ledger_id)
        answer(resp, balance)
