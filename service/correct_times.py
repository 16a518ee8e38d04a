"""What `pgteller correct-times` does: gives what is from the future a time that can be true, while the bank runs.

The rules are those of bank.correct_transaction_times and bank.correct_times; this calls them one short transaction
after another. What is corrected stays so: after an interruption it is run again and does the rest.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from service.owner import OwnerConnection, call, clock_of, rebuild_index

CLOCK_DIFFERENCE_MAX = timedelta(minutes=1)
_ATTEMPTS_MAX = 5
ENTRIES_MAX = 5000
"""Of an account between two pauses: its postings wait a tenth of a second or so."""


@dataclass
class Corrected:
    """How many had a time from the future."""

    accounts: int = 0
    entries: int = 0
    transactions: int = 0

    def __bool__(self) -> bool:
        return bool(self.accounts or self.entries or self.transactions)


def clock_fault(owner: OwnerConnection, now: datetime) -> str | None:
    """Return why times should not be corrected: the server's clock is not ours. None: it is.

    To a clock that is behind, true times are from the future.
    """
    server_now = clock_of(owner)
    if abs(server_now - now) <= CLOCK_DIFFERENCE_MAX:
        return None
    here, there = (f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" for at in (now, server_now))
    return f"the server's clock says {there}, this machine's {here} (UTC): set the wrong one right, then run this again"


def correct_times(owner: OwnerConnection, *, dry_run: bool = False, entries_max: int = ENTRIES_MAX) -> Corrected:
    """Correct all ledgers and return what was corrected; dry_run: what would be, and change nothing.

    Raises psycopg.Error. What was corrected until then stays so.
    """
    corrected = Corrected()
    _correct_transactions(owner, corrected, dry_run=dry_run)
    for account in call(owner, "wrong_times"):
        if dry_run:
            corrected.accounts += 1
            corrected.entries += account["entry_count"]
        else:
            _correct_account(owner, account, corrected, entries_max)
    if corrected.entries and not dry_run:
        # Its ranges still reach into the future, and readiness would read every page of them.
        rebuild_index(owner, "entry_created_at")
    return corrected


def _correct_transactions(owner: OwnerConnection, corrected: Corrected, *, dry_run: bool) -> None:
    last: dict[str, Any] = {"last_ledger_id": 0, "last_transaction_id": 0}
    while last["last_ledger_id"] is not None:
        last = _call_again(
            owner,
            "correct_transaction_times",
            after_ledger_id=last["last_ledger_id"],
            after_transaction_id=last["last_transaction_id"],
            dry_run=dry_run,
        )
        corrected.transactions += last["transaction_count"]


def _correct_account(owner: OwnerConnection, account: dict[str, Any], corrected: Corrected, entries_max: int) -> None:
    """Correct an account, with a pause of its lock after every so many entries."""
    entries = 0
    first_versions = account["first_versions"]
    finished = False
    while not finished:
        step = _call_again(
            owner,
            "correct_times",
            account_id=account["account_id"],
            row_ids=account["row_ids"],
            first_versions=first_versions,
            hold_ids=account["hold_ids"],
            ledger_id=account["ledger_id"],
            entries_max=entries_max,
            entries_before=entries,
        )
        first_versions, finished = step["next_versions"], step["finished"]
        entries += step["entry_count"]
        corrected.transactions += step["transaction_count"]
    corrected.accounts += 1
    corrected.entries += entries


def _call_again(owner: OwnerConnection, function: str, **arguments: object) -> dict[str, Any]:
    """Call it, again where it met a deadlock with a caller who composes postings: then nothing was done."""
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        try:
            [row] = call(owner, function, **arguments)
        except psycopg.errors.DeadlockDetected:
            if attempt == _ATTEMPTS_MAX:
                raise
        else:
            return row
    raise AssertionError("unreachable")
