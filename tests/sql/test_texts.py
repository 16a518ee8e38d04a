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


@pytest.mark.parametrize(
    "blank", ["\t\n\v\f\r ", "\u0085\u00a0\u1680", "\u2000\u2007\u200a", "\u2028\u2029\u202f\u205f\u3000"]
)
@pytest.mark.parametrize("collation", ["default", "C", "pg_c_utf8", "unicode"])
def test_what_is_blank_is_the_same_in_every_collation(
    app: Connection, owner: Connection, blank: str, collation: str
) -> None:
    if not owner.execute("select from pg_collation where collname = %s", [collation]).fetchall():
        pytest.skip("this PostgreSQL does not have the collation")
    with raises("TLARG", "invalid_argument", "description"):
        app.execute(f'select bank.credit(2, 1, null, %s collate "{collation}")'.encode(), [blank])
    app.execute(f'select bank.credit(2, 1, null, %s collate "{collation}")'.encode(), [f"{blank}x{blank}"])


LARGE_TEXTS = {
    "one letter": "repeat('x', 300000000)",
    "blank": "repeat(' ', 300000000)",
    "letters of four bytes": "repeat(U&'\\+01F3E6', 70000000)",
}


@pytest.mark.parametrize("text", LARGE_TEXTS.values(), ids=LARGE_TEXTS)
def test_a_text_of_any_size_is_refused_by_its_size_alone(app: Connection, text: str) -> None:
    """A regular expression would make wide characters of the whole, more than PostgreSQL's memory for one value."""
    app.execute(f"create temp table large as select {text} as text".encode())
    for field, length_max in TEXTS.items():
        with raises("TLARG", "invalid_argument", field) as facts:
            app.execute(f"select bank.credit(2, 1, {field} => l.text) from large as l".encode())
        assert facts["reason"] == f"is longer than {length_max} characters"


ONES = "[" + "1, " * 2727 + "1]"
LARGE_METADATA = {
    "a long text": ("jsonb_build_object('a', repeat('x', 200000000))", False),
    "many numbers": ("jsonb_build_object('a', (select jsonb_agg(1) from generate_series(1, 100000)))", False),
    "numbers of many digits": (
        "jsonb_build_object('a', (select jsonb_agg(1e131071) from generate_series(1, 10000)))",
        False,
    ),
    "the same below zero": (
        "jsonb_build_object('a', (select jsonb_agg(-1e131071) from generate_series(1, 3000)))",
        False,
    ),
    "a deep number": ("""'{"a": [{"b": [[1e9000]]}]}'""", False),
    "a small number": ("""'{"a": 1e-9000}'""", False),
    "a zero of many digits": ("""'{"a": 0e-9000}'""", False),
    "a number of as many digits as there may be": ("""'{"a": 1e8184}'""", True),
    "one more": ("""'{"a": 1e8185}'""", False),
    "the most values that there may be": (f"""'{{"": {ONES}}}'""", True),
    "the deepest that there may be": (f"""'{{"": {"[" * 4093}{"]" * 4093}}}'""", True),
    "one deeper": (f"""'{{"": {"[" * 4094}{"]" * 4094}}}'""", False),
}


@pytest.mark.parametrize(("metadata", "fits"), LARGE_METADATA.values(), ids=LARGE_METADATA)
@pytest.mark.parametrize("stored", ["plain", "external", "extended"])
def test_metadata_is_measured_as_its_text_however_it_is_stored(
    app: Connection, metadata: str, fits: bool, stored: str
) -> None:
    app.execute("create temp table large (metadata jsonb)")
    if stored != "plain":
        app.execute(f"alter table large alter metadata set storage {stored}".encode())
        app.execute(f"insert into large values ({metadata})".encode())
    source = "large as l" if stored != "plain" else f"(select {metadata}::jsonb as metadata offset 0) as l"
    statement = f"select bank.credit(2, 1, metadata => l.metadata) from {source}".encode()
    if fits:
        app.execute(statement)
    else:
        with raises("TLARG", "invalid_argument", "metadata") as facts:
            app.execute(statement)
        assert facts["reason"] == f"is larger than {METADATA_BYTES_MAX} bytes"
