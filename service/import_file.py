"""Reads the CSV files that `pgteller import` takes: rows, and what is wrong with the bad ones."""

import csv
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

AMOUNT_MINOR_MAX = 9_007_199_254_740_991  # 2^53 - 1, as in the database
KEY_COLUMNS = ("idempotency_key", "source_trans_id")
REQUIRED_COLUMNS = ("account_id", "transaction_type", "amount_minor")
TEXT_LENGTH_MAX = 255
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")
_PRINTABLE_ASCII = re.compile(r"[!-~]([ -~]*[!-~])?")


class ImportFileError(ValueError):
    """The file cannot be imported at all; the message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """A transaction to post."""

    line: int
    account: str
    """The account's external_id."""
    transaction_type: str
    """credit or debit"""
    amount_minor: int
    key: str
    expected_balance_minor: int | None
    """The account's balance after this transaction, according to the file."""
    currency: str
    holder_name: str
    description: str | None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line, or several that a quote joined, that is no transaction."""

    line: int
    reason: str


@dataclass(slots=True)
class Survey:
    """What is known about a file before anything of it is posted."""

    rows: int = 0
    """How many rows the file has, bad ones included."""
    lowest_balance_minor: dict[str, int] = field(default_factory=dict)
    """The lowest expected balance of each account that ever has one below zero."""


class ImportFile:
    """A CSV file with a header line. It is read anew for each pass, never held in memory."""

    def __init__(self, path: Path, *, key_column: str | None, key_prefix: str, currency: str) -> None:
        """Read the header. key_column: None for the first of KEY_COLUMNS that the file has.

        currency: of rows that name none. Raises ImportFileError, OSError.
        """
        self._path = path
        self._key_prefix = key_prefix
        self._currency = currency
        with closing(self._records()) as records:
            _, header = next(records, (1, []))
        self._header = [] if isinstance(header, ValueError) else [name.strip() for name in header]
        self._key_column = key_column or next((name for name in KEY_COLUMNS if name in self._header), "")
        self._check_header()

    def _check_header(self) -> None:
        missing = [name for name in REQUIRED_COLUMNS if name not in self._header]
        if not missing and self._key_column not in self._header:
            missing = [self._key_column or " or ".join(KEY_COLUMNS)]
        if missing:
            raise ImportFileError(
                f"{self._path} has no column {', '.join(missing)} in its first line"
                + ("" if self._key_column in self._header else "; --key-column names that of a unique key")
            )
        twice = sorted({name for name in self._header if self._header.count(name) > 1})
        if twice:
            raise ImportFileError(f"{self._path} has more than one column {', '.join(twice)}")

    def survey(self) -> Survey:
        """Go through the whole file once."""
        survey = Survey()
        for row in self.rows():
            survey.rows += 1
            if isinstance(row, Row) and (row.expected_balance_minor or 0) < 0:
                lowest = survey.lowest_balance_minor.get(row.account, 0)
                survey.lowest_balance_minor[row.account] = min(lowest, row.expected_balance_minor or 0)
        return survey

    def rows(self) -> Iterator[Row | BadRow]:
        """Yield the rows in the order of the file; empty lines are passed over."""
        records = self._records()
        next(records)
        for line, fields in records:
            try:
                if not isinstance(fields, list):
                    raise fields
                yield self._row(line, fields)
            except ValueError as error:
                yield BadRow(line, str(error))

    def _records(self) -> Generator[tuple[int, list[str] | ValueError]]:
        """Yield each record with the number of its first line, or what is wrong with it."""
        # Bytes that are not UTF-8 become lone surrogates here, and the row that has them becomes a bad one.
        with self._path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            while True:
                line = reader.line_num + 1
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    through = f" (through line {reader.line_num})" if reader.line_num > line else ""
                    yield line, ValueError(f"is not valid CSV{through}: {error}")
                else:
                    if fields:
                        yield line, fields

    def _row(self, line: int, fields: list[str]) -> Row:
        if len(fields) != len(self._header):
            raise ValueError(f"has {len(fields)} columns instead of {len(self._header)}")
        try:
            "".join(fields).encode()
        except UnicodeEncodeError:
            raise ValueError("is not valid UTF-8") from None
        cells = dict(zip(self._header, map(str.strip, fields), strict=True))
        account = _text(cells, "account_id")
        transaction_type = _text(cells, "transaction_type").lower()
        if transaction_type not in ("credit", "debit"):
            raise ValueError(f"transaction_type {cells['transaction_type']!r} is neither credit nor debit")
        amount_minor = _whole_number(cells, "amount_minor")
        if not 1 <= amount_minor <= AMOUNT_MINOR_MAX:
            raise ValueError(f"amount_minor {amount_minor} is not from 1 to {AMOUNT_MINOR_MAX}")
        return Row(
            line=line,
            account=account,
            transaction_type=transaction_type,
            amount_minor=amount_minor,
            key=self._key(cells),
            expected_balance_minor=(
                _whole_number(cells, "balance_after_minor") if cells.get("balance_after_minor") else None
            ),
            currency=cells.get("currency") or self._currency,
            holder_name=cells.get("holder_name") or f"Account {account}"[:100],
            description=cells.get("description") or None,
        )

    def _key(self, cells: Mapping[str, str]) -> str:
        key = self._key_prefix + _text(cells, self._key_column)
        if len(key) > TEXT_LENGTH_MAX or not _PRINTABLE_ASCII.fullmatch(key):
            raise ValueError(
                f"{self._key_column} {cells[self._key_column]!r} is not a key: that is printable ASCII, "
                f"at most {TEXT_LENGTH_MAX} characters with {self._key_prefix!r} before it"
            )
        return key


def _text(cells: Mapping[str, str], column: str) -> str:
    text = cells[column]
    if not text:
        raise ValueError(f"{column} is missing")
    if len(text) > TEXT_LENGTH_MAX:
        raise ValueError(f"{column} is longer than {TEXT_LENGTH_MAX} characters")
    return text


def _whole_number(cells: Mapping[str, str], column: str) -> int:
    text = _text(cells, column)
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError(f"{column} {text!r} is not a whole number of minor units")
    return int(text)
