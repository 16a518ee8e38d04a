"""What a caller sets for its own session turns no check around and changes nothing that is stored.

Bodies in SQL are parsed in the session of whoever calls, and casts follow its settings.
"""

import json
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Bank, Connection
from tests.helpers import call, violations

SETTINGS = [
    *(("standard_conforming_strings", "off"), ("backslash_quote", "on"), ("escape_string_warning", "off")),
    *(("transform_null_equals", "on"), ("array_nulls", "off"), ("quote_all_identifiers", "on")),
    *(("DateStyle", "SQL, DMY"), ("DateStyle", "German"), ("IntervalStyle", "sql_standard")),
    *(("TimeZone", "Pacific/Kiritimati"), ("TimeZone", "Etc/GMT+12"), ("timezone_abbreviations", "India")),
    *(("bytea_output", "escape"), ("extra_float_digits", "-15"), ("xmlbinary", "hex"), ("xmloption", "document")),
    *(("lc_monetary", "C"), ("lc_numeric", "C"), ("lc_time", "C")),
    *(("check_function_bodies", "off"), ("plpgsql.check_asserts", "off"), ("plpgsql.extra_errors", "all")),
    *(("plpgsql.print_strict_params", "on"), ("plan_cache_mode", "force_generic_plan")),
    *(("plan_cache_mode", "force_custom_plan"), ("enable_indexscan", "off"), ("enable_nestloop", "off")),
    *(("enable_sort", "off"), ("jit", "off"), ("constraint_exclusion", "on"), ("from_collapse_limit", "1")),
    *(("join_collapse_limit", "1"), ("geqo_threshold", "2"), ("default_toast_compression", "pglz")),
    *(("default_transaction_isolation", "repeatable read"), ("default_transaction_isolation", "serializable")),
    *(("default_transaction_deferrable", "on"), ("row_security", "off")),
    *(("parallel_setup_cost", "0"), ("debug_parallel_query", "on"), ("force_parallel_mode", "on")),
    *(("search_path", "evil, pg_catalog, bank"), ("search_path", "pg_temp, evil, pg_catalog"), ("search_path", "")),
]

POSTED = "transaction_type, transaction_status, failure_code, failure_detail, amount_minor, currency, replayed"
IDS = {"account_id", "transaction_id"}
TEXTS = "idempotency_key, description, external_id, metadata, debit_balance_after_minor, credit_balance_after_minor"


def ask(connection: Connection, columns: str, call_of: str, *arguments: object) -> Any:
    """Return the rows of a call as JSON, or the error of the catalogue that it raises."""
    statement = (
        f"select coalesce(jsonb_agg(to_jsonb(r)), '[]')::text as rows from (select {columns} from {call_of}) as r"
    )
    try:
        [row] = connection.execute(statement.encode(), arguments).fetchall()
    except psycopg.Error as error:
        assert (error.sqlstate or "").startswith("TL"), error
        answer = [error.sqlstate, error.diag.message_primary, json.loads(error.diag.message_detail or "{}")]
    else:
        answer = json.loads(row["rows"])
    return _without_ids(answer)


def _without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_ids(each) for each in value]
    if isinstance(value, dict):
        return {name: _without_ids(each) for name, each in value.items() if name not in IDS}
    return value


def story(connection: Connection, ledger_id: int) -> list[object]:
    """Let every kind of call succeed, be rejected and be refused; return what was answered, without ids and times."""
    open_account = "bank.open_account(%s, %s, %s, %s, %s, %s)"
    accounts = []
    for name in ("Ada", "sss", "u0085", "Eve"):
        [row] = connection.execute(
            f"select account_id from {open_account}".encode(), [name, "EUR", 10, name, Jsonb({"s": name}), ledger_id]
        ).fetchall()
        accounts.append(row["account_id"])
    ada, bob, eve, limited = accounts
    seen: list[object] = []

    def note(columns: str, call_of: str, *arguments: object) -> None:
        seen.append((call_of, ask(connection, columns, call_of, *arguments)))

    def post(function: str, *arguments: object, columns: str = f"{POSTED}, {TEXTS}") -> None:
        note(columns, f"bank.{function}({', '.join(['%s'] * len(arguments))}, ledger_id => %s)", *arguments, ledger_id)

    for blank in ("", " ", "\t\n\v\f\r", "\u0085", "\u2003 \u3000"):
        note("holder_name", open_account, blank, "EUR", 0, None, Jsonb({}), ledger_id)
        note("holder_name", open_account, "Zoe", "EUR", 0, blank, Jsonb({}), ledger_id)
        post("credit", ada, 1, blank)
        post("transfer", ada, bob, 1, None, blank)
        post("transfer", ada, bob, 1, None, None, blank)
        note("account_status", "bank.set_limit(%s, 'day', 1, null, %s, null, %s)", ada, blank, ledger_id)
    for text in ("sss", "u0085", "\\s", "'", "null", "NULL", "-2000", "u200a" * 50):
        post("credit", ada, 100, text, text, text, Jsonb({text: [text, None, 1.50]}))
        post("credit", ada, 100, text, text, text, Jsonb({text: [text, None, 1.50]}))
    post("credit", ada, 101, "sss")
    post("credit", ada, 0)
    post("credit", ada, None)
    post("credit", None, 1)
    post("credit", ada, 1, None, "x" * 501)
    post("credit", ada, 1, None, None, None, Jsonb({"a": "x" * 9000}))
    post("credit", ada, 1, None, None, None, Jsonb([]))
    post("transfer", ada, bob, 10_000)
    post("transfer", ada, ada, 1)
    post("transfer", ada, 10**12, 1, columns="1 as one")
    post("debit", ada, 7, None, columns=POSTED)
    authorise = "bank.authorise(%s, %s, null, 0, {}, %s, ledger_id => %s)"
    note(POSTED, authorise.format("null"), ada, 5, "hold", ledger_id)
    note(POSTED, authorise.format("timestamptz '2090-03-02 01:04:05+00'"), ada, 5, "h2", ledger_id)
    note(POSTED, authorise.format("timestamptz '2090-03-02 01:04:05+00'"), ada, 5, "h2", ledger_id)
    note(POSTED, authorise.format("timestamptz '2020-01-01 00:00:00+00'"), ada, 5, "h3", ledger_id)
    note(POSTED, authorise.format("timestamptz 'infinity'"), ada, 5, "h4", ledger_id)
    for kind, amount, number in [("day", 30, 3), ("week", None, 4), ("month", 90, None), ("overdraft", None, None)]:
        note(
            "account_status, overdraft_limit_minor",
            "bank.set_limit(%s, %s, %s, %s, null, 'me', %s)",
            limited,
            kind,
            amount,
            number,
            ledger_id,
        )
    for no_kind in ("Day", "", None, "null"):
        note("account_status", "bank.set_limit(%s, %s, 1, null, null, null, %s)", limited, no_kind, ledger_id)
    note(
        "account_status, overdraft_limit_minor",
        "bank.set_limit(%s, 'day', 1.5, null, null, null, %s)",
        limited,
        ledger_id,
    )
    note(
        "account_status, overdraft_limit_minor",
        "bank.set_limit(%s, 'transaction', 1, 1, null, null, %s)",
        limited,
        ledger_id,
    )
    for amount in (10, 21, 20, 1):
        post("transfer", limited, eve, amount, columns=POSTED)
    limits = (
        "limit_kind, amount_max_minor, count_max, used_minor, used_count, extract(epoch from window_started_at) as t"
    )
    note(limits, "bank.limits(%s, %s)", limited, ledger_id)
    # Written as constructors: how an array literal reads NULL is the caller's business (array_nulls).
    note(
        f"{POSTED}, {TEXTS}",
        """
        bank.post(
            array['credit', 'debit', 'transfer', 'credit'],
            array[null, %s, %s, null]::bigint[], array[%s, null, %s, %s]::bigint[], array[5, 6, 7, 8],
            array['b1', null, %s, ' '], array[null, 'null', %s, 'd'], array[null, null, 'e', null],
            array['{}', null, '{"a": null}', '[]']::jsonb[], ledger_id => %s
        )
        """,
        *(ada, ada, ada, bob, ada, "b3", "\\s", ledger_id),
    )
    note("change_type, before, after, changed_by, reason", "bank.account_changes(%s, null, 10, %s)", limited, ledger_id)
    note("balance_minor, held_minor, available_balance_minor, version", "bank.balance(%s, %s)", ada, ledger_id)
    note("amount_minor, balance_after_minor, description", "bank.statement(%s, null, 50, %s)", ada, ledger_id)
    return seen


EVIL = """
create schema evil;
create function evil.octet_length(text) returns integer language sql immutable as 'select 0';
create function evil.length(text) returns integer language sql immutable as 'select 0';
create function evil.never(text, text) returns boolean language sql immutable as 'select false';
create operator evil.~ (function = evil.never, leftarg = text, rightarg = text);
create operator evil.= (function = evil.never, leftarg = text, rightarg = text);
create function evil.less(bigint, bigint) returns boolean language sql immutable as 'select false';
create operator evil.< (function = evil.less, leftarg = bigint, rightarg = bigint);
create function evil.jsonb_typeof(jsonb) returns text language sql immutable as $$ select 'object' $$;
create function evil.clock_timestamp() returns timestamptz language sql as $$ select '-infinity'::timestamptz $$;
create function evil.trunc(numeric) returns numeric language sql immutable as 'select $1';
grant usage on schema evil to public;
"""


@pytest.mark.parametrize(("setting", "value"), SETTINGS)
def test_every_call_answers_as_it_does_under_the_default_settings(
    bank: Bank, app: Connection, owner: Connection, setting: str, value: str
) -> None:
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute(EVIL)
    usual, other = (call(owner, "create_ledger", name)["ledger_id"] for name in ("Usual", "Other"))
    expected = story(app, usual)
    with bank.connect() as caller:
        try:
            caller.execute("select set_config(%s, %s, false)", [setting, value])
        except psycopg.errors.UndefinedObject:
            pytest.skip("this PostgreSQL does not have the setting")
        answers = story(caller, other)
    for expected_answer, answer in zip(expected, answers, strict=True):
        assert answer == expected_answer
    assert stored(owner, other) == stored(owner, usual)
    assert violations(app) == []


def stored(owner: Connection, ledger_id: int) -> list[dict[str, Any]]:
    """Return what is stored of the texts of a ledger, as it is stored."""
    return owner.execute(
        """
        select idempotency_key, description, external_id, metadata::text, failure_code from bank.transaction
        where ledger_id = %(ledger_id)s
        union all
        select null, holder_name, external_id, metadata::text, null from bank.account where ledger_id = %(ledger_id)s
        union all
        select null, extract(epoch from expires_at)::text, null, null, null from bank.hold
        where ledger_id = %(ledger_id)s
        order by 1, 2, 3, 4, 5
        """,
        {"ledger_id": ledger_id},
    ).fetchall()
