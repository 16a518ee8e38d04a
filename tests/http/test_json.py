"""Whatever a body may have as metadata, jsonb takes: one request cannot stop the call that it shares with others."""

import asyncio
import json
import time
from typing import Any

import falcon.asgi
import falcon.testing
import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from service.accounts import OpenAccountsRequest
from service.errors import Problem
from service.postings import CreditRequest
from service.requests import read_body
from tests.conftest import Connection


def read(metadata: bytes) -> str:
    """Read a body with this metadata as a route does; return what would be sent to PostgreSQL."""
    body = b'{"amount_minor": 1, "metadata": ' + metadata + b"}"
    return str(asyncio.run(read_body(request(body), CreditRequest)).arguments()["metadata"])


def request(body: bytes) -> falcon.asgi.Request:
    scope = falcon.testing.create_scope(
        "/v1/accounts/1/credit", method="POST", headers={"Content-Type": "application/json"}
    )
    events = falcon.testing.ASGIRequestEventEmitter(body, chunk_size=2**20)
    req = falcon.asgi.Request(scope, events.emit)
    req.context.body_bytes_max = 4 * 2**20
    req.context.content_encoding = None
    return req


# Around what numeric can hold, in every way of writing it.
digits = st.one_of(
    st.text("0123456789", min_size=1, max_size=30),
    st.builds(
        lambda digit, count, end: digit * count + end,
        st.sampled_from("019"),
        st.sampled_from([998, 1000, 4299, 4301, 16_283, 16_382, 16_383, 16_384, 131_071, 131_072, 131_073]),
        st.text("0123456789", max_size=3),
    ),
)
exponents = st.one_of(
    st.integers(-40, 40),
    st.sampled_from([16_382, 16_383, 16_384, 131_071, 131_072, 999_999_999, 2**30 - 1, 2**31, 2**63, 10**30]).flatmap(
        lambda edge: st.integers(edge - 2, edge + 2) | st.integers(-edge - 2, -edge + 2)
    ),
).map(str)
numbers = st.builds(
    lambda sign, whole, fraction, exponent: (
        sign + (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "") + exponent
    ),
    st.sampled_from(["", "-"]),
    digits | st.just("0"),
    st.none() | digits,
    st.just("")
    | st.builds(
        lambda letter, exponent, zeros: (
            letter + (exponent.replace("-", "-" + zeros) if "-" in exponent else zeros + exponent)
        ),
        st.sampled_from(["e", "E"]),
        exponents,
        st.sampled_from(["", "0", "000", "0" * 4301]),
    ),
)
pieces = st.one_of(
    st.characters(),
    st.sampled_from(["\\u0000", "\\\\u0000", "\\ud800", "\\udc00", "\\ud83c\\udfe6", "\\u00e9", "\\/", "\\\\", '\\"']),
    st.sampled_from(["\x00", "\x1f", "\x7f", "\ufeff", "\uffff", "1e-20000", "[", "{", "\\x"]),
)
strings = st.lists(pieces, max_size=6).map(lambda parts: '"' + "".join(parts) + '"')
scalars = st.one_of(
    numbers, strings, st.sampled_from(["true", "false", "null", "NaN", "Infinity", "", "01", ".5", "+1"])
)
blanks = st.sampled_from(["", " ", "\n\t", "\u00a0", "\x0c"])
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: "[" + ",".join(each) + "]"),
        st.lists(st.tuples(strings, blanks, inner), max_size=3).map(
            lambda members: "{" + ",".join(f"{name}:{blank}{value}" for name, blank, value in members) + "}"
        ),
        st.tuples(inner, st.sampled_from([1, 499, 500, 501, 985])).map(lambda v: "[" * v[1] + v[0] + "]" * v[1]),
    ),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=values, name=strings)
def test_jsonb_takes_whatever_a_body_may_have_as_metadata(app: Connection, value: str, name: str) -> None:
    text = f"{{{name}: {value}}}".encode(errors="surrogatepass")
    try:
        accepted = read(text)
    except Problem as problem:
        assert problem.body["errors"][0]["field"] in ("metadata", "body")
        return
    app.execute("select %s::jsonb", [accepted])


names = st.sampled_from(['"a"', '"\\u0061"', '"a:"', '"a\\u003a"', '"\\\\"', '"b\\":"', '""', '"b"'])
texts = st.sampled_from(['":"', '"a::b"', '"\\u003a"', '"\\":\\""', '"{\\"a\\":1}"', "1", "null", "[]", "{}"])
nested = st.recursive(
    texts,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: "[" + ",".join(each) + "]"),
        st.lists(st.tuples(names, blanks.filter(str.isascii), inner), max_size=3).map(
            lambda members: (
                "{" + ",".join(f"{name}{blank.strip(chr(12))}:{value}" for name, blank, value in members) + "}"
            )
        ),
    ),
    max_leaves=6,
)


def has_a_member_twice(text: str) -> bool:
    found: list[bool] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.append(len(dict(pairs)) != len(pairs))

    json.loads(text, object_pairs_hook=look)
    return any(found)


@settings(max_examples=300, deadline=None)
@given(members=st.lists(st.tuples(names, nested), max_size=4))
def test_a_member_is_refused_exactly_when_a_parser_sees_it_twice(members: list[tuple[str, str]]) -> None:
    metadata = "{" + ",".join(f"{name}: {value}" for name, value in members) + "}"
    if has_a_member_twice(metadata):
        with pytest.raises(Problem) as caught:
            read(metadata.encode())
        assert "more than once" in caught.value.body["detail"]
    else:
        assert read(metadata.encode()) == metadata


@settings(max_examples=300, deadline=None)
@given(
    members=st.lists(
        st.tuples(
            st.sampled_from(['"description"', '"external_id"', '"\\u0064escription"', '"metadata"']),
            st.sampled_from(['":"', '"\\u003a"', "null", '"\\":\\""', '"a"']),
            st.sampled_from(["{}", '{"a":1}', '{"a:":"::"}']),
        ),
        max_size=4,
    )
)
def test_a_member_of_a_body_likewise(members: list[tuple[str, str, str]]) -> None:
    parts = [f"{name}: {metadata if 'metadata' in name else text}" for name, text, metadata in members]
    body = "{" + ",".join(['"amount_minor":1', *parts]) + "}"
    if has_a_member_twice(body):
        with pytest.raises(Problem) as caught:
            asyncio.run(read_body(request(body.encode()), CreditRequest))
        assert "more than once" in caught.value.body["detail"]
    else:
        asyncio.run(read_body(request(body.encode()), CreditRequest))


@pytest.mark.parametrize(
    "number",
    [
        *("1e-16383", "0e-16383", "1e308", "0e131071", "-0", "1.50", "5e-324", "1e-000400", "9" * 4000),
        *("0." + "0" * 16_382 + "1", "1." + "1" * 16_383, "1e+000000000000000000300", "1e-" + "0" * 5000 + "7"),
    ],
)
def test_a_number_that_jsonb_takes_is_let_through(app: Connection, number: str) -> None:
    accepted = read(b'{"a": ' + number.encode() + b"}")
    app.execute("select %s::jsonb", [accepted])


@pytest.mark.parametrize("text", ["1e-20000", "9" * 20_000, "[" * 600, "\\\\u0000"])
def test_what_only_looks_like_a_number_out_of_range_is_a_text(app: Connection, text: str) -> None:
    accepted = read(f'{{"a": "{text}"}}'.encode())
    row = app.execute("select %s::jsonb ->> 'a' as a", [accepted]).fetchone()
    assert row == {"a": json.loads(f'"{text}"')}


def test_a_number_out_of_range_is_refused_by_jsonb(app: Connection) -> None:
    """If PostgreSQL should come to take it, the check of requests.py can go."""
    refused: list[Any] = []
    for number in ("1e-16384", "0e-16384", "0e2147483648"):
        with pytest.raises(psycopg.errors.NumericValueOutOfRange):
            app.execute("select %s::jsonb", [number])
        with pytest.raises(Problem) as caught:
            read(b'{"a": ' + number.encode() + b"}")
        refused.append(caught.value.body["errors"][0]["field"])
    assert refused == ["metadata"] * 3


def object_of(size_bytes: int, unit: bytes) -> bytes:
    """JSON of about this size that has a small number, for which all numbers are looked at, and then only these."""
    return b'{"a": [1e-100' + unit * ((size_bytes - 20) // len(unit)) + b"]}"


@pytest.mark.parametrize("unit", [b",1", b",1e-100", b",[[]]", b',""', b',"\\"\\\\"', b'           ,"1e-20000"'])
def test_metadata_is_looked_into_only_where_that_is_quick(unit: bytes) -> None:
    """The event loop waits for it, and with it every other request; some of these took seconds for 4 MiB."""
    large = object_of(4_000_000, unit)
    began = time.perf_counter()
    with pytest.raises(Problem) as caught:
        read(large)
    assert time.perf_counter() - began < 0.5
    assert caught.value.body["errors"] == [{"field": "metadata", "reason": "is larger than 8192 bytes"}]

    largest = object_of(65_536, unit)
    began = time.perf_counter()
    assert read(largest) == largest.decode()
    assert time.perf_counter() - began < 0.5


def test_a_member_that_is_there_twice_among_thousands_is_named_in_one_pass() -> None:
    """Of this thread's own time, which says nothing of the machine: to count each name in turn took a second of it."""
    names = [f"{number:x}" for number in range(7_400)]
    metadata = b"{" + b",".join(b'"%s":0' % name.encode() for name in [*names, names[-1]]) + b"}"
    assert 60_000 < len(metadata) < 65_000
    began = time.thread_time()
    with pytest.raises(Problem) as caught:
        read(metadata)
    assert time.thread_time() - began < 0.2
    assert caught.value.body["detail"] == f"metadata has a member more than once: {names[-1]!r}"


@pytest.mark.parametrize(("size_bytes", "reason"), [(65_536, "has a number"), (65_537, "is larger than 8192 bytes")])
def test_metadata_too_large_to_be_looked_into_is_not(size_bytes: int, reason: str) -> None:
    with pytest.raises(Problem) as caught:
        read(b'{"a": 1e-20000' + b" " * (size_bytes - 15) + b"}")
    assert caught.value.body["detail"].startswith(f"metadata {reason}")


def test_other_requests_have_their_turn_while_the_metadata_of_a_batch_is_looked_into() -> None:
    item = b'{"holder_name": "A", "currency": "EUR", "metadata": ' + object_of(8192, b",1") + b"}"
    batch = b'{"accounts": [' + b",".join([item] * 400) + b"]}"

    async def turns() -> int:
        turns = 0
        reading = asyncio.ensure_future(read_body(request(batch), OpenAccountsRequest))
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)
        assert len((await reading).accounts) == 400
        return turns

    assert asyncio.run(turns()) > 40
