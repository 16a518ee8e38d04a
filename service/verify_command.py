"""What `pgteller verify` does: checks the bank slice by slice, and says how far it is, and where to go on when stopped.

What is checked is in bank.verify_slice; each call is short, so the bank goes on meanwhile.
"""

import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import psycopg
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from service.owner import OwnerConnection, call

VIOLATIONS_SHOWN = 100
PLAIN_INTERVAL_SECONDS = 5.0


@dataclass
class Checked:
    """How much was checked, and what was found."""

    accounts: int = 0
    entries: int = 0
    transactions: int = 0
    rows_estimated: int = 0
    violations: int = 0

    @property
    def rows(self) -> int:
        """Of all three tables."""
        return self.accounts + self.entries + self.transactions


def verify_in_slices(connection: OwnerConnection, *, ledger_id: int | None, place: str | None) -> None:
    """Check from `place` on, None: from the beginning; each violation is a line on stdout.

    Raises click.ClickException when something was found, or when Ctrl-C stops it; psycopg.Error.
    """
    checked = Checked()
    started_at = time.monotonic()
    since = "" if place is None else f", from {place} on"
    if ledger_id is None and (named := re.match(r"\w+:(\d+)", place or "")) and int(named[1]) < 2**63:
        # To go on in a ledger that does not exist would find nothing wrong; a slice of one row says so.
        call(connection, "verify_slice", ledger_id=int(named[1]), rows_max=1)
    try:
        with _progress(checked) as show:
            while True:
                (slice_,) = call(connection, "verify_slice", place=place, ledger_id=ledger_id)
                checked.accounts += slice_["account_count"]
                checked.entries += slice_["entry_count"]
                checked.transactions += slice_["transaction_count"]
                checked.rows_estimated = slice_["rows_estimated"]
                _show_violations(slice_["violations"], checked)
                place = slice_["next_place"]
                if place is None:
                    break
                show()
    except KeyboardInterrupt:
        found = f" violations so far: {checked.violations:,}." if checked.violations else ""
        raise click.ClickException(f"stopped.{found} Go on with: {_command(place, ledger_id)}") from None
    except psycopg.Error as error:
        if checked.rows:
            error.add_note(f"go on with: {_command(place, ledger_id)}")
        raise
    click.echo(
        f"{checked.accounts:,} accounts, {checked.entries:,} entries and {checked.transactions:,} transactions"
        f" checked in {time.monotonic() - started_at:.1f} s{since}"
    )
    _conclude(checked)


def verify_whole(connection: OwnerConnection, *, ledger_id: int | None) -> None:
    """Check everything in one snapshot; each violation is a line on stdout.

    Raises click.ClickException when something was found; psycopg.Error.
    """
    # bank.verify finds nothing wrong with a ledger that does not exist; a slice of one row says so.
    call(connection, "verify_slice", ledger_id=ledger_id, rows_max=1)
    checked = Checked()
    _show_violations(call(connection, "verify", ledger_id=ledger_id), checked)
    _conclude(checked)


def _command(place: str | None, ledger_id: int | None) -> str:
    """Return the command that goes on there."""
    words = ["pgteller verify"]
    if ledger_id is not None:
        words.append(f"--ledger {ledger_id}")
    if place is not None:
        words.append(f"--from {shlex.quote(place)}")
    return " ".join(words)


def _show_violations(violations: list[dict[str, Any]], checked: Checked) -> None:
    for row in violations[: max(0, VIOLATIONS_SHOWN - checked.violations)]:
        where = [f"{name} {row[name]}" for name in ("ledger_id", "account_id", "transaction_id", "version")]
        click.echo(f"{row['violation']}: {', '.join(where)}: {row['detail']}")
    checked.violations += len(violations)


def _conclude(checked: Checked) -> None:
    if checked.violations:
        more = f", the first {VIOLATIONS_SHOWN} shown" if checked.violations > VIOLATIONS_SHOWN else ""
        raise click.ClickException(f"violations: {checked.violations:,}{more}")
    click.echo("No violations.")


@contextmanager
def _progress(checked: Checked) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal, a line now and then elsewhere; both on stderr, by the estimated number of rows."""
    if sys.stderr.isatty():
        # On a terminal violations appear above the bar; a file that stdout goes to gets them as ever.
        bar = Progress(
            TextColumn("verifying"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.completed:,.0f} rows"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        with bar:
            task = bar.add_task("", total=None)
            yield lambda: bar.update(
                task, completed=checked.rows, total=max(checked.rows_estimated, checked.rows) or None
            )
        return
    shown_at = time.monotonic()

    def show() -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at > PLAIN_INTERVAL_SECONDS:
            shown_at = time.monotonic()
            click.echo(f"{checked.rows:,} of about {max(checked.rows_estimated, checked.rows):,} rows", err=True)

    yield show
