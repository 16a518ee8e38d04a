"""Lists that are read a page at a time, newest first, along a number that has no gaps."""

import base64
import binascii
from typing import Any, NamedTuple

import falcon.asgi

from service.errors import invalid
from service.requests import Request, Text, read_id, read_query

_SIZE_MAX = 1000


class PageQuery(Request, frozen=True):
    """The page: its size, and the cursor that the page before it gave."""

    limit: Text = "50"
    cursor: Text | None = None


class Page(NamedTuple):
    """What is asked for: rows with a lower number than this one (null: the newest), and how many."""

    before: int | None
    size: int


class Pages:
    """The pages of one kind of list: the column that numbers its rows, and the mark that its cursors begin with."""

    def __init__(self, column: str, mark: str) -> None:
        self._column = column
        self._mark = mark

    def read(self, req: falcon.asgi.Request) -> Page:
        """Read which page the query asks for."""
        query = read_query(req, PageQuery)
        size = read_id(query.limit, "limit", _SIZE_MAX)
        return Page(None if query.cursor is None else self._number(query.cursor), size)

    def next_cursor(self, rows: list[dict[str, Any]], page: Page) -> str | None:
        """Return the cursor of the page after these rows; null when there is none."""
        # The numbers have no gaps, so the row with number 1 is the first there ever was.
        more = len(rows) == page.size and rows[-1][self._column] > 1
        return self._cursor(rows[-1][self._column]) if more else None

    def _cursor(self, number: int) -> str:
        """Return the cursor of the page before this number, encoded so that clients do not build on it."""
        return base64.urlsafe_b64encode(f"{self._mark}{number}".encode()).decode().rstrip("=")

    def _number(self, cursor: str) -> int:
        try:
            text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        except (binascii.Error, ValueError):
            text = ""
        number = read_id(text[1:], "cursor") if text.startswith(self._mark) else None
        # The decoder passes over characters that are not of its alphabet.
        if number is None or self._cursor(number) != cursor:
            raise invalid("cursor", "is not one that a page gave")
        return number
