"""What each role may do, and what the functions do not let a caller do in their name."""

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Bank, Connection
from tests.helpers import balance_of, call, open_account

DENIED = psycopg.errors.InsufficientPrivilege
COLUMNS = {
    "_yoyo_log": "operation",
    "_yoyo_migration": "migration_id",
    "_yoyo_version": "version",
    "account": "balance_minor",
    "account_change": "change_number",
    "account_limit": "used_minor",
    "api_key": "scopes",
    "currency": "exponent",
    "entry": "amount_minor",
    "error": "code",
    "hold": "captured_minor",
    "installation": "sql_digest",
    "installed_version": "sql_digest",
    "ledger": "name",
    "opening": "request",
    "transaction": "amount_minor",
}
WRITES = ["insert into {0} default values", "update {0} set {1} = null", "delete from {0}", "truncate {0}"]


def test_the_tables_of_these_tests_are_all_tables(owner: Connection) -> None:
    rows = owner.execute("select tablename from pg_tables where schemaname = 'bank' order by tablename").fetchall()
    assert [row["tablename"] for row in rows] == list(COLUMNS)


@pytest.mark.parametrize("role", ["bank_app", "bank_reader"])
@pytest.mark.parametrize(("table", "column"), COLUMNS.items())
def test_a_role_writes_to_no_table(bank: Bank, role: str, table: str, column: str) -> None:
    with bank.connect(role) as connection:
        for statement in WRITES:
            names = sql.Identifier("bank", table), sql.Identifier(column)
            with pytest.raises(DENIED):
                connection.execute(sql.SQL(statement).format(*names))
        privileges = connection.execute(
            "select has_table_privilege(%s, 'insert, update, delete, truncate, references, trigger') as any",
            [f"bank.{table}"],
        ).fetchone()
        assert privileges == {"any": False}


@pytest.mark.parametrize("role", ["bank_app", "bank_reader"])
@pytest.mark.parametrize("table", ["account", "api_key", "entry", "installation", "ledger", "transaction", "principal"])
def test_a_role_reads_no_table_and_no_key(bank: Bank, role: str, table: str) -> None:
    with bank.connect(role) as connection, pytest.raises(DENIED):
        connection.execute(sql.SQL("select from {}").format(sql.Identifier("bank", table)))


def test_the_app_executes_the_public_functions_alone(app: Connection) -> None:
    rows = app.execute(
        """
        select proname, has_function_privilege(oid, 'execute') as may
        from pg_proc where pronamespace = 'bank'::regnamespace
        """
    ).fetchall()
    allowed = {row["proname"] for row in rows if row["may"]}
    assert {"credit", "debit", "transfer", "open_account", "verify"} < allowed
    assert {name for name in allowed if name.startswith("_")} == {"_account_of", "_stripe_id"}  # views call them
    assert not allowed & {"create_api_key", "list_api_keys", "revoke_api_key", "create_ledger", "create_currency"}


def test_the_reader_executes_nothing_that_writes(bank: Bank, app: Connection) -> None:
    open_account(app)
    with bank.connect("bank_reader") as reader:
        assert balance_of(reader, 2) == 0
        for posting in ("credit(2, 1)", "debit(2, 1)", "transfer(2, 2, 1)", "open_account('Eve', 'EUR')"):
            with pytest.raises(DENIED):
                reader.execute(f"select bank.{posting}".encode())


def test_sequences_are_closed_to_the_app(app: Connection) -> None:
    with pytest.raises(DENIED):
        app.execute("select nextval('bank.transaction_id_seq')")


def test_a_role_without_grants_sees_nothing(bank: Bank, owner: Connection) -> None:
    with psycopg.connect(bank.owner_url, autocommit=True) as superuser:
        superuser.execute("drop role if exists stranger")
        superuser.execute("create role stranger")
        with bank.connect("stranger") as stranger, pytest.raises(DENIED):
            stranger.execute("select bank.verify()")
        superuser.execute("drop role stranger")


def test_temporary_objects_of_the_caller_fool_no_function(app: Connection) -> None:
    account_id = open_account(app, 100)
    app.execute("create temp table account (ledger_id bigint, account_id bigint, balance_minor bigint)")
    app.execute("create temp table currency (currency text)")
    app.execute(
        "create function pg_temp.clock_timestamp() returns timestamptz language sql as 'select null::timestamptz'"
    )
    app.execute("set search_path = pg_temp, bank")
    assert call(app, "debit", account_id, 60)["debit_balance_after_minor"] == 40
    assert call(app, "debit", account_id, 60)["failure_code"] == "insufficient_funds"


def test_the_app_cannot_become_the_owner(bank: Bank) -> None:
    with psycopg.connect(bank.app_url, autocommit=True) as connection, pytest.raises(DENIED):
        connection.execute("set role bank_owner")
