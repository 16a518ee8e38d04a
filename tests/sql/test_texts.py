"""Texts and metadata at their limits, in which order they are checked, and that they come back as they went in."""

import json

import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Connection
from tests.helpers import Row, call, count, open_account, raises

TEXTS = {"idempotency_key": 255, "description": 500, "external_id": 255}
METADATA_BYTES_MAX = 8192

# The last argument of each call is the amount, after which the texts are named.
POSTINGS = {
    "credit": ("credit", [2, 1]),
    "debit": ("debit", [2, 1]),
    "debit to a beneficiary": ("debit", [2, 1, 3]),
    "transfer": ("transfer", [2, 3, 1]),
}
each_posting = pytest.mark.parametrize("posting", POSTINGS.values(), ids=POSTINGS)
Posting = tuple[str, list[int]]


def metadata_of(size_bytes: int) -> str:
    """Metadata that PostgreSQL writes with this many bytes."""
    return json.dumps({"a": "x" * (size_bytes - len('{"a": ""}'))})


@pytest.fixture(autouse=True)
def accounts(app: Connection) -> None:
    """Accounts 2 and 3."""
    assert [open_account(app, 100), open_account(app, 100)] == [2, 3]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(field, value) for field in TEXTS for value in ("", " \t\r\n ")],
        *[(field, "x" * (length_max + 1)) for field, length_max in TEXTS.items()],
        *[("metadata", value) for value in ("[]", "null", '"text"', "7", "true")],
        ("metadata", metadata_of(METADATA_BYTES_MAX + 1)),
    ],
)
def test_every_posting_refuses_a_text_that_is_not_valid_and_records_nothing(
    app: Connection, owner: Connection, field: str, value: str
) -> None:
    before = count(owner, "transaction")
    for function, arguments in POSTINGS.values():
        with raises("TLARG", "invalid_argument", field):
            call(app, function, *arguments, **{field: value})
    assert count(owner, "transaction") == before


@each_posting
@pytest.mark.parametrize("letter", ["x", "é", "🏦"])
def test_texts_are_as_long_as_their_limits_in_characters_and_come_back_unchanged(
    app: Connection, posting: Posting, letter: str
) -> None:
    function, arguments = posting
    texts = {field: letter * length_max for field, length_max in TEXTS.items()}
    posted = call(app, function, *arguments, **texts)
    assert {field: posted[field] for field in TEXTS} == texts
    assert call(app, "find_transaction", texts["idempotency_key"]) == posted


def test_metadata_is_as_large_as_its_limit_in_bytes(app: Connection) -> None:
    metadata = metadata_of(METADATA_BYTES_MAX)
    assert call(app, "credit", 2, 1, metadata=metadata)["metadata"] == json.loads(metadata)


def test_an_account_takes_texts_as_long_as_their_limits(app: Connection) -> None:
    account = call(
        app,
        "open_account",
        "é" * 100,
        "EUR",
        external_id="é" * 255,
        metadata=metadata_of(METADATA_BYTES_MAX),
    )
    assert (len(account["holder_name"]), len(account["external_id"])) == (100, 255)


@pytest.mark.parametrize("function", ["open_account", "credit"])
def test_null_metadata_is_the_empty_object(app: Connection, function: str) -> None:
    arguments: list[object] = ["Ada", "EUR"] if function == "open_account" else [2, 1]
    row = call(app, function, *arguments, metadata=None)
    assert row["metadata"] == {}
    if function == "credit":
        assert call(app, "get_transaction", row["transaction_id"]) == row


def test_texts_are_checked_in_the_order_of_the_arguments(app: Connection) -> None:
    faults: Row = {"idempotency_key": "", "description": "", "external_id": "", "metadata": Jsonb([])}
    for field in list(faults):
        with raises("TLARG", "invalid_argument", field):
            call(app, "credit", 2, 1, **faults)
        del faults[field]


def test_the_arguments_of_open_account_are_checked_in_their_order(app: Connection) -> None:
    faults: Row = {
        "holder_name": "",
        "currency": None,
        "overdraft_limit_minor": -1,
        "external_id": "",
        "metadata": Jsonb([]),
    }
    valid = {"holder_name": "Ada", "currency": "EUR", "overdraft_limit_minor": 0, "external_id": "x", "metadata": "{}"}
    for field in faults:
        with raises("TLARG", "invalid_argument", field):
            call(app, "open_account", **faults, ledger_id=99)
        faults[field] = valid[field]
    with raises("TLLED", "ledger_not_found", "ledger_id"):
        call(app, "open_account", **{**faults, "currency": "nope"}, ledger_id=99)
    open_account(app, external_id="x")
    with raises("TLCUR", "unknown_currency", "currency"):
        call(app, "open_account", **{**faults, "currency": "nope"})
    with raises("TLEXT", "external_id_taken", "external_id"):
        call(app, "open_account", **faults)


@pytest.mark.parametrize("text", ["'; drop schema bank cascade; --", '"quoted"', "%s {} \\n", "a\nb", " kept "])
def test_a_text_is_data_and_nothing_else(app: Connection, text: str) -> None:
    posting = call(app, "credit", 2, 1, text, text, text, Jsonb({text: text}))
    assert (posting["idempotency_key"], posting["description"], posting["external_id"]) == (text, text, text)
    assert posting["metadata"] == {text: text}
    assert call(app, "find_transaction", text) == posting
