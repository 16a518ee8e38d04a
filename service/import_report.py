"""What `pgteller import` shows: progress meanwhile, a summary at the end."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.importer import Tally

PLAIN_INTERVAL_SECONDS = 5.0
FAILURES_SHOWN = 20


class ImportProgress:
    """A bar on a terminal, a line now and then elsewhere; both on stderr, with the rate."""

    def __init__(self, rows: int, tally: Tally) -> None:
        self._rows = rows
        self._tally = tally
        self._started_at = self._shown_at = time.monotonic()
        self._bar = Progress(
            TextColumn("posting"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} a second"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._on_terminal = sys.stderr.isatty()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it for the duration."""
        if not self._on_terminal:
            yield
            return
        with self._bar:
            self._task = self._bar.add_task("", total=self._rows, rate=0)
            yield

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self._started_at

    @property
    def rate(self) -> str:
        """Rows a second so far."""
        return f"{self._tally.rows / max(self.seconds, 0.001):,.0f}"

    def update(self) -> None:
        """Take note of another row."""
        now = time.monotonic()
        if self._on_terminal:
            if now - self._shown_at > 0.1:  # noqa: PLR2004 - ten times a second
                self._shown_at = now
                self._bar.update(self._task, completed=self._tally.rows, rate=self.rate)
        elif now - self._shown_at > PLAIN_INTERVAL_SECONDS:
            self._shown_at = now
            click.echo(f"{self._tally.rows:,} of {self._rows:,} rows, {self.rate} a second", err=True)


def report(tally: Tally, progress: ImportProgress) -> None:
    """Print the failures with their line numbers on stderr, the summary on stdout."""
    failures = sorted(tally.failures)
    for line, reason in failures[:FAILURES_SHOWN]:
        click.echo(f"line {line}: {reason}", err=True)
    if tally.failed > len(failures[:FAILURES_SHOWN]):
        click.echo(f"… and {tally.failed - FAILURES_SHOWN:,} more lines, {tally.failed:,} in all", err=True)
    by_code = ", ".join(f"{code} {count:,}" for code, count in tally.rejected.most_common())
    click.echo(
        f"{tally.rows:,} rows in {progress.seconds:.1f} s, {progress.rate} a second\n"
        f"  posted      {tally.posted:,}\n"
        f"  replayed    {tally.replayed:,}\n"
        f"  rejected    {tally.rejected.total():,}" + (f" ({by_code})" if by_code else "") + "\n"
        f"  bad rows    {tally.bad_rows:,}\n"
        f"  balances    {tally.compared:,} compared, {tally.mismatches:,} mismatches\n"
        f"  accounts    {tally.accounts_opened:,} opened, {tally.accounts_found:,} found"
    )
