"""`pgteller import`: posts the rows of a file over HTTP, each with an idempotency key of its own.

Rows of one account are posted one after another, in the order of the file; accounts go side by side. Whatever
is sent a second time, by a retry or a second run, is replayed and not posted again.
"""

import asyncio
import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

import uvloop

from service.http_client import Connection, ConnectionFailedError, Response
from service.import_file import ImportFile, Row, Survey

CONNECTIONS_DEFAULT = 4
"""Few, because all credits and debits of a currency wait for its settlement account: more gain nothing."""
WINDOW_ROWS = 10_000
"""How many rows are read ahead, so that one busy account does not leave the connections idle."""
TRIES_MAX = 8
RETRY_SECONDS_FIRST = 0.2
RETRY_SECONDS_MAX = 10.0
TRY_AGAIN = frozenset({429, 502, 503, 504})
FATAL = frozenset({401, 403, 405})
FAILURES_KEPT = 10_000


class ImportStoppedError(RuntimeError):
    """The import cannot go on; the message says why. What was posted stays posted."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to post."""

    url: str
    key: str
    connections: int = CONNECTIONS_DEFAULT
    overdraft_limit_minor: int | None = None
    """Of accounts that are opened; None for what the expected balances of the file need."""
    stop_on_error: bool = False


@dataclass(slots=True)
class Tally:
    """What became of the rows."""

    posted: int = 0
    replayed: int = 0
    """Posted by an earlier run, or try."""
    rejected: Counter[str] = field(default_factory=Counter)
    """By the code of the error."""
    bad_rows: int = 0
    compared: int = 0
    """Rows whose balance was compared with the expected one."""
    mismatches: int = 0
    accounts_opened: int = 0
    accounts_found: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    """Line numbers and reasons, FAILURES_KEPT at most."""

    @property
    def rows(self) -> int:
        """Rows that are dealt with."""
        return self.posted + self.replayed + self.rejected.total() + self.bad_rows

    @property
    def failed(self) -> int:
        """Rows that were not posted as the file has them."""
        return self.rejected.total() + self.bad_rows + self.mismatches

    def note_failure(self, line: int, reason: str) -> None:
        """Keep what went wrong with a line."""
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append((line, reason))


def run_import(
    file: ImportFile, survey: Survey, options: ImportOptions, tally: Tally, on_progress: Callable[[], None]
) -> None:
    """Post the file; `tally` is kept up to date meanwhile, and on_progress called after each row.

    Raises ImportStoppedError, KeyboardInterrupt.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Import(file, survey, options, tally, on_progress).run())


# ---- the order of rows -------------------------------------------------------------------------------------


class _Schedule:
    """Rows that wait, by account: first come, first served, and no account twice at a time."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(WINDOW_ROWS)
        self._waiting: dict[str, deque[Row]] = {}
        self._ready: asyncio.Queue[str | None] = asyncio.Queue()
        self._complete = False
        self._stopped = False

    async def put(self, row: Row) -> None:
        """Add a row; waits while too many are waiting."""
        await self._room.acquire()
        if row.account in self._waiting:
            self._waiting[row.account].append(row)
        else:
            self._waiting[row.account] = deque([row])
            self._ready.put_nowait(row.account)

    async def take(self) -> Row | None:
        """Return the next row of an account that nobody is at; None when no more will come."""
        account = await self._ready.get()
        if account is None or self._stopped:
            self._ready.put_nowait(None)  # for the next one who asks
            return None
        return self._waiting[account][0]

    def done(self, row: Row) -> None:
        """Let the next row of the account go."""
        rows = self._waiting[row.account]
        rows.popleft()
        self._room.release()
        if rows:
            self._ready.put_nowait(row.account)
        else:
            del self._waiting[row.account]
            self._end_when_empty()

    def complete(self) -> None:
        """Note that no more rows will be put."""
        self._complete = True
        self._end_when_empty()

    def stop(self) -> None:
        """Let nobody take another row."""
        self._stopped = True
        self._ready.put_nowait(None)

    def _end_when_empty(self) -> None:
        if self._complete and not self._waiting:
            self._ready.put_nowait(None)


# ---- posting -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Account:
    account_id: int
    currency: str


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why the service did not do what was asked."""

    code: str
    detail: str


class _Import:
    def __init__(
        self,
        file: ImportFile,
        survey: Survey,
        options: ImportOptions,
        tally: Tally,
        on_progress: Callable[[], None],
    ) -> None:
        self._file = file
        self._survey = survey
        self._options = options
        self._tally = tally
        self._on_progress = on_progress
        self._schedule = _Schedule()
        self._accounts: dict[str, _Account | _Refusal] = {}

    async def run(self) -> None:
        await self._check_service()
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read())
                workers = [group.create_task(self._work()) for _ in range(self._options.connections)]
                await asyncio.wait(workers)
                reader.cancel()
        except ExceptionGroup as errors:  # the group has cancelled the others; the first says why
            raise errors.exceptions[0] from None

    def _connect(self) -> Connection:
        return Connection(self._options.url, {"Authorization": f"Bearer {self._options.key}"})

    async def _check_service(self) -> None:
        connection = self._connect()
        try:
            response = await connection.request("GET", "/health/ready")
        except ConnectionFailedError as error:
            raise ImportStoppedError(f"nothing answers at {self._options.url}: {error}") from None
        finally:
            connection.close()
        if response.status != HTTPStatus.OK:
            raise ImportStoppedError(
                f"{self._options.url} is not a pgteller that is ready: it answers {_refusal(response).detail}"
            )

    async def _read(self) -> None:
        for row in self._file.rows():
            if isinstance(row, Row):
                await self._schedule.put(row)
                continue
            self._note_bad_row(row.line, row.reason)
            self._on_progress()
            if self._options.stop_on_error:
                break  # what stands before it is still posted
        self._schedule.complete()

    async def _work(self) -> None:
        connection = self._connect()
        try:
            while (row := await self._schedule.take()) is not None:
                if not await self._post(connection, row) and self._options.stop_on_error:
                    self._schedule.stop()
                self._schedule.done(row)
                self._on_progress()
        finally:
            connection.close()

    async def _post(self, connection: Connection, row: Row) -> bool:
        """Post a row; return whether the ledger has it now as the file has it."""
        account = self._accounts.get(row.account)
        if account is None:
            account = self._accounts[row.account] = await self._open_account(connection, row)
        if isinstance(account, _Refusal):
            return self._note_rejection(row, account)
        if account.currency != row.currency:
            return self._note_bad_row(
                row.line, f"account {row.account} is in {account.currency}, this row in {row.currency}"
            )
        body: dict[str, object] = {"amount_minor": row.amount_minor}
        if row.description is not None:
            body["description"] = row.description
        path = f"/v1/accounts/{account.account_id}/{row.transaction_type}"
        response = await self._request(connection, "POST", path, body, {"Idempotency-Key": row.key})
        if response.status == HTTPStatus.CREATED:
            self._tally.posted += 1
        elif response.status == HTTPStatus.OK:
            self._tally.replayed += 1
        else:
            return self._note_rejection(row, _refusal(response))
        return self._compare_balance(row, response)

    async def _open_account(self, connection: Connection, row: Row) -> _Account | _Refusal:
        """Open the account of a row, or find the one that has its external_id."""
        overdraft_limit_minor = self._options.overdraft_limit_minor
        if overdraft_limit_minor is None:
            overdraft_limit_minor = -self._survey.lowest_balance_minor.get(row.account, 0)
        body = {
            "holder_name": row.holder_name,
            "currency": row.currency,
            "overdraft_limit_minor": overdraft_limit_minor,
            "external_id": row.account,
        }
        response = await self._request(connection, "POST", "/v1/accounts", body, {"Idempotency-Key": _key_of(body)})
        if response.status == HTTPStatus.CREATED:
            self._tally.accounts_opened += 1
        elif response.status == HTTPStatus.OK:  # replayed
            self._tally.accounts_found += 1
        elif response.status == HTTPStatus.CONFLICT and "account_id" in response.document:
            path = f"/v1/accounts/{response.document['account_id']}"
            response = await self._request(connection, "GET", path)
            if response.status != HTTPStatus.OK:
                return _refusal(response)
            self._tally.accounts_found += 1
        else:
            return _refusal(response)
        opened = response.document
        return _Account(opened["account_id"], opened["currency"])

    async def _request(
        self,
        connection: Connection,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Send a request until it is answered for good; raises ImportStoppedError when it never is."""
        seconds = RETRY_SECONDS_FIRST
        for tries_left in reversed(range(TRIES_MAX)):
            try:
                response = await connection.request(method, path, body, headers)
            except ConnectionFailedError as error:
                trouble = str(error)
            else:
                if response.status not in TRY_AGAIN:
                    break
                trouble = _refusal(response).detail
            if tries_left:
                await asyncio.sleep(seconds)
                seconds = min(2 * seconds, RETRY_SECONDS_MAX)
        else:
            raise ImportStoppedError(f"gave up after {TRIES_MAX} tries of {method} {path}: {trouble}")
        if response.status in FATAL or (response.status >= HTTPStatus.BAD_REQUEST and "code" not in response.document):
            raise ImportStoppedError(f"{method} {path} is refused: {_refusal(response).detail}")
        return response

    def _compare_balance(self, row: Row, response: Response) -> bool:
        if row.expected_balance_minor is None:
            return True
        self._tally.compared += 1
        balance_minor = response.document[f"{row.transaction_type}_balance_after_minor"]
        if balance_minor == row.expected_balance_minor:
            return True
        self._tally.mismatches += 1
        self._tally.note_failure(
            row.line, f"balance is {balance_minor} after it, expected {row.expected_balance_minor}"
        )
        return False

    def _note_rejection(self, row: Row, refusal: _Refusal) -> bool:
        self._tally.rejected[refusal.code] += 1
        self._tally.note_failure(row.line, f"{refusal.code}: {refusal.detail}")
        return False

    def _note_bad_row(self, line: int, reason: str) -> bool:
        self._tally.bad_rows += 1
        self._tally.note_failure(line, reason)
        return False


def _key_of(opening: dict[str, object]) -> str:
    """Return the key under which an account is opened: of all that is asked for.

    Another file, or the same one with another overdraft, may ask for another account of the same name. That is no
    retry: it finds the account by its external_id, as one that was opened without a key.
    """
    return f"import:account:{hashlib.sha256(json.dumps(opening, sort_keys=True).encode()).hexdigest()}"


def _refusal(response: Response) -> _Refusal:
    problem = response.document
    code = str(problem.get("code", response.status))
    return _Refusal(code, str(problem.get("detail") or problem.get("title") or f"status {response.status}"))
