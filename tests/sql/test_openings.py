"""Opening accounts: idempotency keys, and many in one call."""

import json
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.conftest import Bank, Connection
from tests.helpers import Row, call, call_all, codes, count, open_account, raises, violations

REUSED = ("TLKEY", "idempotency_key_reused")
REQUEST: Row = {
    "holder_name": "Ada",
    "currency": "EUR",
    "overdraft_limit_minor": 500,
    "external_id": "customer-1",
    "metadata": '{"tier": 1}',
    "account_type": "asset",
    "idempotency_key": "k",
}
ARRAYS = {
    "holder_name": "holder_names",
    "currency": "currencies",
    "overdraft_limit_minor": "overdraft_limits_minor",
    "external_id": "external_ids",
    "metadata": "metadatas",
    "account_type": "account_types",
    "idempotency_key": "idempotency_keys",
}
TYPES = {"overdraft_limit_minor": "numeric", "metadata": "jsonb"}


def open_many(connection: Connection, *items: Row, ledger_id: int = 1) -> list[Row]:
    """Open an account for each item, which names arguments of bank.open_account; absent ones are its defaults."""
    defaults = {"currency": "EUR", "overdraft_limit_minor": 0, "account_type": "liability"}
    arguments = ", ".join(f"{array} => %s::{TYPES.get(name, 'text')}[]" for name, array in ARRAYS.items())
    values = [[item.get(name, defaults.get(name)) for item in items] for name in ARRAYS]
    query = f"select * from bank.open_accounts({arguments}, ledger_id => %s)"
    return connection.execute(query.encode(), [*values, ledger_id]).fetchall()


def one_by_one(connection: Connection, *items: Row, ledger_id: int = 1) -> list[Row]:
    """Open with bank.open_account, and turn what it raises into the row that open_accounts has for it."""
    rows: list[Row] = []
    for item in items:
        try:
            rows.append(call(connection, "open_account", **{"currency": "EUR", **item}, ledger_id=ledger_id))
        except psycopg.Error as error:
            facts = json.loads(error.diag.message_detail or "{}")
            rows.append(
                {
                    **dict.fromkeys(rows[0] if rows else (), None),
                    "account_id": None,
                    "external_id": item.get("external_id"),
                    "replayed": False,
                    "failure_code": error.diag.message_primary,
                    "failure_detail": facts,
                }
            )
    return rows


# ---- a retry ------------------------------------------------------------------------------------------------


def test_a_retry_with_the_same_key_opens_nothing_and_returns_the_account(app: Connection, owner: Connection) -> None:
    first = call(app, "open_account", **REQUEST)
    assert (first["account_type"], first["replayed"], first["failure_code"]) == ("asset", False, None)
    accounts = count(owner, "account")
    assert call(app, "open_account", **REQUEST) == {**first, "replayed": True}
    assert count(owner, "account") == accounts
    assert violations(app) == []


def test_without_a_key_every_call_opens_an_account(app: Connection, owner: Connection) -> None:
    assert open_account(app) != open_account(app)
    assert count(owner, "opening") == 0


def test_a_retry_returns_the_account_as_it_is_now(app: Connection, owner: Connection) -> None:
    account_id = call(app, "open_account", **REQUEST)["account_id"]
    call(app, "credit", account_id, 700)
    call(app, "set_limit", account_id, "overdraft", 0)
    owner.execute("update bank.account set holder_name = 'Lady Ada' where account_id = %s", [account_id])
    retried = call(app, "open_account", **REQUEST)
    assert retried == {
        **call(app, "account", account_id),
        "replayed": True,
        "failure_code": None,
        "failure_detail": None,
    }
    assert (retried["holder_name"], retried["overdraft_limit_minor"], retried["balance_minor"]) == ("Lady Ada", 0, 700)


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("holder_name", "Eve"),
        ("currency", "JPY"),
        ("overdraft_limit_minor", 501),
        ("overdraft_limit_minor", None),
        ("external_id", "customer-2"),
        ("external_id", None),
        ("metadata", '{"tier": 2}'),
        ("metadata", None),
        ("account_type", "liability"),
    ],
)
def test_another_request_with_the_same_key_is_refused(
    app: Connection, owner: Connection, field: str, other: object
) -> None:
    opened = call(app, "open_account", **REQUEST)["account_id"]
    before = count(owner, "account")
    with raises(*REUSED, field) as facts:
        call(app, "open_account", **{**REQUEST, field: other})
    assert facts["reason"] == "differs from the first request with this idempotency_key"
    assert facts["account_id"] == opened
    assert count(owner, "account") == before


def test_the_first_argument_that_differs_is_named(app: Connection) -> None:
    call(app, "open_account", **REQUEST)
    other: Row = {**dict.fromkeys(REQUEST, "other"), "currency": "JPY", "account_type": "income"}
    other |= {"overdraft_limit_minor": 1, "metadata": '{"tier": 2}', "idempotency_key": "k"}
    for field in list(REQUEST)[:-1]:
        with raises(*REUSED, field):
            call(app, "open_account", **other)
        other[field] = REQUEST[field]
    assert call(app, "open_account", **other)["replayed"]


@pytest.mark.parametrize(
    "same",
    [{"metadata": '{ "tier" : 1.0 }'}, {"overdraft_limit_minor": "500.0"}],
)
def test_values_are_compared_not_how_they_are_written(app: Connection, same: Row) -> None:
    opened = call(app, "open_account", **REQUEST)["account_id"]
    request = {**REQUEST, **same}
    rows = open_many(app, request)
    assert (rows[0]["account_id"], rows[0]["replayed"]) == (opened, True)


def test_null_and_empty_metadata_are_the_same_request(app: Connection) -> None:
    opened = call(app, "open_account", "Ada", "EUR", metadata=None, idempotency_key="k")
    assert call(app, "open_account", "Ada", "EUR", idempotency_key="k") == {**opened, "replayed": True}


def test_the_request_is_compared_not_the_account_that_has_changed_into_it(app: Connection, owner: Connection) -> None:
    account_id = call(app, "open_account", "Ada", "EUR", idempotency_key="k")["account_id"]
    owner.execute("update bank.account set holder_name = 'Eve' where account_id = %s", [account_id])
    with raises(*REUSED, "holder_name"):
        call(app, "open_account", "Eve", "EUR", idempotency_key="k")


def test_a_key_is_compared_before_the_external_id(app: Connection) -> None:
    call(app, "open_account", **REQUEST)
    assert call(app, "open_account", **REQUEST)["replayed"]
    with raises(*REUSED, "holder_name"):
        call(app, "open_account", **{**REQUEST, "holder_name": "Eve"})
    with raises("TLEXT", "external_id_taken", "external_id"):
        call(app, "open_account", **{**REQUEST, "idempotency_key": "another"})


def test_a_key_whose_request_failed_is_free(app: Connection, owner: Connection) -> None:
    open_account(app, external_id="taken")
    with raises("TLEXT", "external_id_taken"):
        call(app, "open_account", "Ada", "EUR", external_id="taken", idempotency_key="k")
    [row] = open_many(app, {"holder_name": "Ada", "external_id": "taken", "idempotency_key": "k"})
    assert row["failure_code"] == "external_id_taken"
    assert count(owner, "opening") == 0
    assert not call(app, "open_account", "Ada", "EUR", external_id="free", idempotency_key="k")["replayed"]


def test_keys_of_openings_are_apart_from_those_of_postings_and_of_other_ledgers(
    app: Connection, owner: Connection
) -> None:
    branch = call(owner, "create_ledger", "Branch")["ledger_id"]
    account_id = open_account(app, idempotency_key="k")
    assert not call(app, "credit", account_id, 100, "k")["replayed"]
    there = call(app, "open_account", "Eve", "JPY", idempotency_key="k", ledger_id=branch)
    assert (there["replayed"], there["ledger_id"]) == (False, branch)
    assert call(app, "credit", account_id, 100, "k")["replayed"]


@pytest.mark.parametrize("key", ["", " \t", "\u3000", "x" * 256])
def test_a_blank_or_overlong_key_is_refused(app: Connection, key: str) -> None:
    with raises("TLARG", "invalid_argument", "idempotency_key"):
        call(app, "open_account", "Ada", "EUR", idempotency_key=key)


def test_a_key_is_as_long_as_its_limit_in_characters(app: Connection) -> None:
    opened = call(app, "open_account", "Ada", "EUR", idempotency_key="é" * 255)
    assert call(app, "open_account", "Ada", "EUR", idempotency_key="é" * 255) == {**opened, "replayed": True}


@pytest.mark.parametrize("account_type", ["asset", "liability", "equity", "income", "expense"])
def test_an_account_has_the_type_that_it_is_opened_with(app: Connection, account_type: str) -> None:
    account_id = open_account(app, 100, account_type=account_type)
    assert call(app, "account", account_id)["account_type"] == account_type
    assert call(app, "debit", account_id, 100)["transaction_status"] == "success"
    assert violations(app) == []


@pytest.mark.parametrize("account_type", [None, "", "Asset", "revenue"])
def test_an_account_type_that_there_is_not_is_refused(app: Connection, account_type: str | None) -> None:
    with raises("TLARG", "invalid_argument", "account_type"):
        call(app, "open_account", "Ada", "EUR", account_type=account_type)


def test_an_opening_is_undone_with_the_callers_transaction(app: Connection, owner: Connection) -> None:
    with app.transaction(force_rollback=True):
        open_account(app, idempotency_key="k")
    assert count(owner, "opening") == 0
    assert not call(app, "open_account", "Ada", "EUR", idempotency_key="k")["replayed"]


@pytest.mark.parametrize("setting", ["standard_conforming_strings = off", "search_path = pg_catalog"])
def test_settings_of_the_session_change_nothing(app: Connection, setting: str) -> None:
    app.execute(f"set {setting}".encode())
    first = call(app, "open_account", **REQUEST)
    assert call(app, "open_account", **REQUEST) == {**first, "replayed": True}


# ---- many in one call ---------------------------------------------------------------------------------------


def test_each_item_has_its_outcome_in_order_and_one_that_cannot_be_opened_stops_no_other(app: Connection) -> None:
    taken = open_account(app, external_id="taken")
    used = open_account(app, idempotency_key="used")
    rows = open_many(
        app,
        {"holder_name": "Zoe", "currency": "JPY", "external_id": "z", "metadata": '{"n": 1}'},
        {"holder_name": " "},
        {"holder_name": "Bob", "currency": "XXX", "external_id": "b"},
        {"holder_name": "Eve", "idempotency_key": "used"},
        {"holder_name": "Ada", "idempotency_key": "used"},
        {"holder_name": "Eve", "external_id": "taken", "idempotency_key": "k"},
        {"holder_name": "Abe", "overdraft_limit_minor": None, "account_type": "equity"},
    )
    refused = ["invalid_argument", "unknown_currency", "idempotency_key_reused"]
    assert codes(rows) == [None, *refused, None, "external_id_taken", None]
    assert [row["replayed"] for row in rows] == [False, False, False, False, True, False, False]
    assert [row["account_id"] is None for row in rows] == [row["failure_code"] is not None for row in rows]
    assert [row["holder_name"] for row in rows] == ["Zoe", None, None, None, "Ada", None, "Abe"]
    assert [row["external_id"] for row in rows] == ["z", None, "b", None, None, "taken", None]
    assert rows[1]["failure_detail"] == {"field": "holder_name", "reason": "is blank"}
    assert rows[3]["failure_detail"]["account_id"] == rows[4]["account_id"] == used
    assert rows[5]["failure_detail"] == {"field": "external_id", "reason": "is taken", "account_id": taken}
    assert (rows[6]["account_type"], rows[6]["available_balance_minor"]) == ("equity", None)
    outcome = ("replayed", "failure_code", "failure_detail")
    opened = {name: value for name, value in rows[0].items() if name not in outcome}
    assert call(app, "account", rows[0]["account_id"]) == opened
    assert violations(app) == []


def test_optional_arrays_stand_for_the_defaults_of_the_singular(app: Connection) -> None:
    plain = call(app, "open_account", "Ada", "EUR")
    [row] = call_all(app, "open_accounts", ["Ada"], ["EUR"])
    differ = ("account_id", "created_at")
    assert {**row, **dict.fromkeys(differ)} == {**plain, **dict.fromkeys(differ)}


def test_of_items_with_the_same_key_the_second_replays_or_is_refused(app: Connection, owner: Connection) -> None:
    first, again, other = open_many(
        app,
        {"holder_name": "Ada", "external_id": "a", "idempotency_key": "k"},
        {"holder_name": "Ada", "external_id": "a", "idempotency_key": "k"},
        {"holder_name": "Ada", "idempotency_key": "k"},
    )
    assert again == {**first, "replayed": True}
    assert (other["failure_code"], other["failure_detail"]["field"]) == ("idempotency_key_reused", "external_id")
    assert other["failure_detail"]["account_id"] == first["account_id"]
    assert count(owner, "opening") == 1


def test_of_items_with_the_same_external_id_the_second_is_refused(app: Connection, owner: Connection) -> None:
    first, second = open_many(
        app,
        {"holder_name": "Ada", "external_id": "a", "idempotency_key": "k"},
        {"holder_name": "Ada", "external_id": "a", "idempotency_key": "l"},
    )
    assert second["failure_code"] == "external_id_taken"
    assert second["failure_detail"]["account_id"] == first["account_id"]
    assert count(owner, "opening") == 1


def test_a_key_that_an_item_could_not_use_is_free_for_a_later_one(app: Connection, owner: Connection) -> None:
    open_account(app, external_id="taken")
    rows = open_many(
        app,
        {"holder_name": "Ada", "external_id": "taken", "idempotency_key": "k"},
        {"holder_name": "Bob", "idempotency_key": "k"},
        {"holder_name": "Bob", "idempotency_key": "k"},
        {"holder_name": "Ada", "external_id": "taken", "idempotency_key": "l"},
        {"holder_name": "Eve", "external_id": "free", "idempotency_key": "l"},
    )
    assert codes(rows) == ["external_id_taken", None, None, "external_id_taken", None]
    assert [row["replayed"] for row in rows] == [False, False, True, False, False]
    keys = owner.execute("select idempotency_key, account_id from bank.opening order by 1").fetchall()
    expected = [("k", rows[1]["account_id"]), ("l", rows[4]["account_id"])]
    assert [(row["idempotency_key"], row["account_id"]) for row in keys] == expected
    assert violations(app) == []


NAMES = st.sampled_from(["Ada", "Ada", "Ada", "Bob", " "])
ITEMS = st.lists(
    st.fixed_dictionaries(
        {
            "holder_name": NAMES,
            "currency": st.sampled_from(["EUR", "EUR", "EUR", "JPY", "XXX"]),
            "external_id": st.sampled_from([None, None, "a", "b", "c", "taken"]),
            "idempotency_key": st.sampled_from([None, "k", "l", "m", "used", ""]),
        },
        optional={
            "account_type": st.sampled_from(["asset", "none"]),
            "overdraft_limit_minor": st.sampled_from([5, -5]),
        },
    ),
    min_size=1,
    max_size=12,
)


def comparable(rows: list[Row]) -> list[Any]:
    """Number the accounts in the order in which they appear, and drop what differs between two ledgers."""
    numbers: dict[int | None, int] = {}

    def number(account_id: int | None) -> int:
        return numbers.setdefault(account_id, len(numbers))

    def plain(row: Row) -> Row:
        kept = {name: value for name, value in row.items() if name not in ("created_at", "ledger_id")}
        detail = dict(kept["failure_detail"] or {})
        if "account_id" in detail:
            detail["account_id"] = number(detail["account_id"])
        return {**kept, "account_id": number(kept["account_id"]), "failure_detail": detail}

    return [plain(row) for row in rows]


def test_a_batch_is_equal_to_one_account_after_another(bank: Bank) -> None:
    with bank.connect("bank_owner") as owner:

        @settings(
            max_examples=150, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck)
        )
        @given(batches=st.lists(ITEMS, min_size=1, max_size=3))
        def compare(batches: list[list[Row]]) -> None:
            outcomes = []
            for function in (open_many, one_by_one):
                ledger_id = call(owner, "create_ledger", "Openings")["ledger_id"]
                first: Row = {"holder_name": "Ada", "external_id": "taken", "idempotency_key": "used"}
                rows = function(owner, first, ledger_id=ledger_id)
                for batch in batches:
                    # The first one lends its names of columns to what is refused.
                    rows += function(owner, first, *batch, ledger_id=ledger_id)
                assert violations(owner) == []
                kept = owner.execute(
                    """
                    select a.*, o.idempotency_key, o.request, null as failure_detail
                    from bank.account_detail as a left join bank.opening as o using (ledger_id, account_id)
                    where a.ledger_id = %s and a.holder_name not like 'Settlement%%' order by a.account_id
                    """,
                    [ledger_id],
                ).fetchall()
                openings = owner.execute(
                    "select count(*) as n from bank.opening where ledger_id = %s", [ledger_id]
                ).fetchone()
                outcomes.append((comparable(rows), comparable(kept), openings))
            assert outcomes[0] == outcomes[1]

        compare()


def test_a_thousand_accounts_are_opened_in_one_call(app: Connection, owner: Connection) -> None:
    items = [
        {"holder_name": f"Holder {n}", "external_id": f"customer-{n}", "idempotency_key": f"key-{n}"}
        for n in range(1000)
    ]
    rows = open_many(app, *items)
    assert [row["holder_name"] for row in rows] == [item["holder_name"] for item in items]
    assert [row["account_id"] for row in rows] == sorted({row["account_id"] for row in rows})
    assert count(owner, "opening") == 1000
    assert open_many(app, *items) == [{**row, "replayed": True} for row in rows]
    assert violations(app) == []


@pytest.mark.parametrize("item_count", [0, 10_001])
def test_a_call_opens_from_1_to_10000_accounts(app: Connection, item_count: int) -> None:
    with raises("TLARG", "invalid_argument", "holder_names"):
        app.execute(
            "select * from bank.open_accounts(array_fill('Ada'::text, array[%s]), array_fill('EUR'::text, array[%s]))",
            [item_count, item_count],
        )


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ("null, array['EUR']", "holder_names"),
        ("array['Ada'], null", "currencies"),
        ("array['Ada'], array['EUR', 'EUR']", "currencies"),
        ("array[['Ada', 'Bob']], array['EUR', 'EUR']", "holder_names"),
        ("'[0:0]={Ada}'::text[], array['EUR']", "holder_names"),
        *(
            (f"array['Ada'], array['EUR'], {name} => array[null, null]::{type_}[]", name)
            for name, type_ in [
                ("overdraft_limits_minor", "numeric"),
                ("external_ids", "text"),
                ("metadatas", "jsonb"),
                ("account_types", "text"),
                ("idempotency_keys", "text"),
            ]
        ),
    ],
)
def test_malformed_arrays_are_refused_whole(app: Connection, owner: Connection, arguments: str, field: str) -> None:
    with raises("TLARG", "invalid_argument", field):
        app.execute(f"select * from bank.open_accounts({arguments})".encode())
    assert count(owner, "account") == 0


def test_arguments_are_checked_before_the_ledger_and_the_ledger_before_the_currency(app: Connection) -> None:
    with raises("TLLED", "ledger_not_found", "ledger_id"):
        open_many(app, {"holder_name": ""}, {"holder_name": "Ada", "currency": "XXX"}, ledger_id=99)
    assert codes(open_many(app, {"holder_name": ""}, ledger_id=99)) == ["invalid_argument"]


# ---- ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [{}, {"external_id": "x"}, {"idempotency_key": "k"}])
def test_a_sequence_that_is_behind_the_data_is_said_to_be(app: Connection, owner: Connection, named: Row) -> None:
    existing = open_account(app)
    before = (count(owner, "account"), count(owner, "opening"))
    owner.execute("select setval('bank.account_account_id_seq', 1)")
    with raises("TLSEQ", "sequence_behind", "account_id") as facts:
        call(app, "open_account", "Bob", "EUR", **named)
    assert facts["account_id"] == existing
    assert (count(owner, "account"), count(owner, "opening")) == before


def test_a_sequence_that_is_behind_is_said_to_be_for_a_book_account_too(app: Connection, owner: Connection) -> None:
    open_account(app)
    owner.execute("select setval('bank.account_account_id_seq', 1)")
    with raises("TLSEQ", "sequence_behind", "account_id") as facts:
        call(app, "open_account", "Bob", "JPY")
    assert facts["account_id"] == 2


def test_a_sequence_that_is_behind_is_said_to_be_for_an_item_that_has_an_external_id_after_all(
    app: Connection, owner: Connection
) -> None:
    """The item before it has the external id too, but another item's key, and opens nothing."""
    open_account(app)
    owner.execute("select setval('bank.account_account_id_seq', 12)")
    existing = open_account(app)
    before = (count(owner, "account"), count(owner, "opening"))
    owner.execute("select setval('bank.account_account_id_seq', %s)", [existing - 3])
    with raises("TLSEQ", "sequence_behind", "account_id") as facts:
        open_many(
            app,
            {"holder_name": "Ada", "idempotency_key": "k"},
            {"holder_name": "Bob", "idempotency_key": "k", "external_id": "x"},
            {"holder_name": "Eve", "idempotency_key": "l", "external_id": "x"},
        )
    assert facts["account_id"] == existing
    assert (count(owner, "account"), count(owner, "opening")) == before


def test_a_taken_external_id_and_a_replay_go_before_a_sequence_that_is_behind(
    app: Connection, owner: Connection
) -> None:
    opened = call(app, "open_account", **REQUEST)
    owner.execute("select setval('bank.account_account_id_seq', 1)")
    assert call(app, "open_account", **REQUEST) == {**opened, "replayed": True}
    owner.execute("select setval('bank.account_account_id_seq', 1)")
    with raises("TLEXT", "external_id_taken", "external_id"):
        call(app, "open_account", "Bob", "EUR", external_id="customer-1")


def test_an_opening_whose_account_does_not_exist_is_a_violation(app: Connection, owner: Connection) -> None:
    account_id = open_account(app, idempotency_key="k")
    owner.execute("delete from bank.account where account_id = %s", [account_id])
    [found] = violations(app)
    assert (found["violation"], found["account_id"]) == ("opening_without_account", account_id)
    assert found["detail"] == {"idempotency_key": "k"}


def test_metadata_of_an_item_is_an_object(app: Connection) -> None:
    rows = open_many(app, {"holder_name": "Ada", "metadata": Jsonb([])}, {"holder_name": "Bob", "metadata": None})
    assert codes(rows) == ["invalid_argument", None]
    assert rows[1]["metadata"] == {}
