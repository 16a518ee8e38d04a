"""The exact rights of each role, from the catalogue: a right that nobody meant to give fails here."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.conftest import Bank, Connection
from tests.helpers import open_account

# A view over several rows cannot be written to by anybody.
DENIED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)

VIEWS = {"account_balance", "account_detail", "account_transaction", "currency", "error", "posting", "statement_line"}
VIEWS |= {"hold_detail", "limit_detail", "change_detail"}
# The views call the last two: arithmetic on ids, which reads nothing.
READS = {
    "account",
    "balance",
    "statement",
    "get_transaction",
    "find_transaction",
    "verify",
    "verify_slice",
    "_account_of",
    "_stripe_id",
}
READS |= {"balances", "hold", "limits", "account_changes"}
WRITES = {"open_account", "open_accounts", "credit", "debit", "transfer", "post", "post_transfers", "stripe_account"}
WRITES |= {"post_legs", "authorise", "capture", "void", "end_expired_holds", "reverse", "exchange", "sweep"}
WRITES |= {"transfer_to_ledger", "explain_transfer", "freeze_account", "unfreeze_account", "close_account"}
WRITES |= {"reopen_account", "set_limit"}
WRITES |= {"require_success", "authenticate", "health", "has_entries_from_the_future"}
WRITES |= {"locked_rows", "principals", "read_only_reason"}

# Grantee 0 is PUBLIC. A null list of rights stands for the defaults, which let PUBLIC execute functions.
RIGHTS = """
select grantee, kind, name, privilege_type
from (
    select 'schema' as kind, nspname as name, coalesce(nspacl, acldefault('n', nspowner)) as acl
    from pg_namespace where nspname = 'bank'
    union all
    select 'relation', relname,
        coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner))
    from pg_class where relnamespace = 'bank'::regnamespace and relkind in ('r', 'v', 'S')
    union all
    select 'column', attname, attacl from pg_attribute
    inner join pg_class on pg_attribute.attrelid = pg_class.oid and relnamespace = 'bank'::regnamespace
    where attacl is not null
    union all
    select 'function', proname, coalesce(proacl, acldefault('f', proowner))
    from pg_proc where pronamespace = 'bank'::regnamespace
) as secured
cross join lateral aclexplode(secured.acl)
where grantee = case when %(role)s = 'public' then 0 else (select oid from pg_roles where rolname = %(role)s) end
"""


@pytest.mark.parametrize(
    ("role", "views", "functions"),
    [("bank_app", VIEWS, READS | WRITES), ("bank_reader", VIEWS, READS), ("public", set(), set())],
)
def test_a_role_has_exactly_these_rights(owner: Connection, role: str, views: set[str], functions: set[str]) -> None:
    found = {tuple(row.values())[1:] for row in owner.execute(RIGHTS, {"role": role})}
    expected = {("relation", name, "SELECT") for name in views} | {("function", name, "EXECUTE") for name in functions}
    assert found == expected | ({("schema", "bank", "USAGE")} if expected else set())


@pytest.fixture
def login(bank: Bank) -> Iterator[Connection]:
    """The application as it logs in: with no superuser's session behind it."""
    with psycopg.connect(bank.app_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.mark.parametrize(
    "statement",
    [
        "update bank.account_balance set balance_minor = 1",
        "update bank.account_detail set overdraft_limit_minor = null",
        "delete from bank.account_detail",
        "update bank.error set meaning = ''",
        "copy bank.account to stdout",
        "copy bank.entry from stdin",
        "select from bank.account for update",
        "select key_digest from bank.api_key",
        "select bank._post_one('credit', 1, 2, 1, null, null, null, null, 1)",
        "select bank._raise('invalid_amount', '{}')",
        "select bank._install('', '', '{}', '', '')",
        "select bank.create_ledger('Mine')",
        "select bank.create_currency('MINE', 2, 'Mine')",
        "select bank.create_api_key('k', sha256('k'), '{admin}')",
        "select bank.list_api_keys()",
        "select bank.revoke_api_key(1)",
        "select nextval('bank.transaction_id_seq')",
        "select setval('bank.transaction_id_seq', 1)",
        "select last_value from bank.transaction_id_seq",
        "select nextval('bank.account_account_id_seq')",
        "create table bank.mine ()",
        "create function bank.mine() returns void language sql as ''",
        "drop function bank.health()",
        "alter function bank.health() security invoker",
        "drop table bank.entry",
        "alter table bank.account disable trigger all",
        "create index on bank.entry (amount_minor)",
        "comment on table bank.entry is ''",
        "set session_replication_role = replica",
        "set role bank_owner",
        "set session authorization bank_owner",
    ],
)
def test_the_application_is_denied(app: Connection, login: Connection, statement: str) -> None:
    open_account(app, 100)
    with pytest.raises(DENIED):
        login.execute(statement.encode())


def test_a_new_function_and_a_new_table_are_closed_until_they_are_granted(owner: Connection, login: Connection) -> None:
    owner.execute("create function bank.brand_new() returns integer language sql return 1")
    owner.execute("create table bank.brand_new ()")
    for statement in (b"select bank.brand_new()", b"select from bank.brand_new"):
        with pytest.raises(DENIED):
            login.execute(statement)


def test_temporary_objects_of_the_caller_are_neither_read_nor_written(login: Connection) -> None:
    account_id = open_account(login, 100)
    for table in ("account", "entry", "transaction", "ledger", "error"):
        login.execute(f"create temp table {table} (like bank.account_detail)".encode())
        login.execute(f"insert into pg_temp.{table} select * from bank.account_detail".encode())
    login.execute("set search_path = pg_temp, bank, public")
    login.execute("select bank.transfer(%s, 1, 40)", [account_id])
    rows = login.execute("select balance_minor from bank.balance(%s)", [account_id]).fetchall()
    assert rows == [{"balance_minor": 60}]
    for table in ("account", "entry", "transaction", "ledger", "error"):
        rows = login.execute(
            f"select balance_minor from pg_temp.{table} where account_id = %s".encode(), [account_id]
        ).fetchall()
        assert rows == [{"balance_minor": 100}]
    assert login.execute("select * from bank.verify()").fetchall() == []
