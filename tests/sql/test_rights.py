"""A login that may do more than bank_app is found out, whichever way it may."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from service.rights import excess_rights
from tests.conftest import Bank, Connection

LOGIN = "rights_login"
OTHER = "rights_other"

Excess = Callable[..., list[str]]


@pytest.fixture
def excess(bank: Bank) -> Iterator[Excess]:
    """What a new login may do too much after these statements, all of which are taken back."""
    with bank.connect("none") as superuser:

        def excess(*statements: str) -> list[str]:
            with superuser.transaction(force_rollback=True):
                superuser.execute(f"create role {LOGIN} login; create role {OTHER}".encode())
                for statement in statements:
                    superuser.execute(statement.encode())
                return excess_rights(superuser, LOGIN)

        yield excess


@pytest.mark.parametrize("role", ["bank_app", "bank_reader", OTHER, "pg_monitor"])
def test_a_member_of_a_role_that_calls_or_reads_has_no_right_too_many(excess: Excess, role: str) -> None:
    assert excess(f"grant {role} to {LOGIN}") == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (f"alter role {LOGIN} superuser", ["is a superuser"]),
        (f"alter role {LOGIN} createrole", ["may create roles"]),
        (f"alter role {LOGIN} replication", ["may replicate the whole server"]),
        (f"alter role {LOGIN} bypassrls", ["passes row-level security"]),
        (f"grant bank_owner to {LOGIN}", ["is a member of bank_owner"]),
        (f"alter role {LOGIN} noinherit; grant bank_owner to {LOGIN}", ["is a member of bank_owner"]),
        (f"grant create on schema bank to {LOGIN}", ["may create objects in schema bank"]),
        (f"grant update (balance_minor) on bank.account to {LOGIN}", ["may write to account of schema bank"]),
        (f"grant truncate on bank.entry to {LOGIN}", ["may write to entry of schema bank"]),
        (f"grant select on bank.api_key to {LOGIN}", ["may read api_key of schema bank"]),
        (
            f"grant usage on sequence bank.transaction_id_seq to {LOGIN}",
            ["may use the sequences transaction_id_seq of schema bank"],
        ),
        (f"grant execute on function bank._post_one to {LOGIN}", ["may execute _post_one of schema bank"]),
        (f"grant delete on bank.entry to {OTHER}; grant {OTHER} to {LOGIN}", ["may write to entry of schema bank"]),
        (
            f"alter role {OTHER} superuser; grant {OTHER} to {LOGIN}",
            [f"may take the role {OTHER}, which is a superuser"],
        ),
        (
            f"alter role {LOGIN} noinherit; grant delete on bank.entry to {OTHER}; grant {OTHER} to {LOGIN}",
            [f"may take the role {OTHER}, which may write to entry of schema bank"],
        ),
        (f"grant bank_owner to {OTHER}; grant {OTHER} to {LOGIN}", ["is a member of bank_owner"]),
        (f"grant pg_execute_server_program to {LOGIN}", ["may run programs on the server"]),
        (f"grant pg_read_server_files to {LOGIN}", ["may read files of the server"]),
        (f"grant pg_write_server_files to {LOGIN}", ["may write files of the server"]),
        (f"grant pg_signal_backend to {LOGIN}", ["may end the sessions of others"]),
        (
            f"alter role {LOGIN} noinherit; grant pg_execute_server_program to {LOGIN}",
            ["may take the role pg_execute_server_program, which may run programs on the server"],
        ),
        (f"grant bank_app to {LOGIN} with admin option", ["may grant bank_app to others"]),
        (f"grant bank_app, bank_reader to {LOGIN} with admin option", ["may grant bank_app, bank_reader to others"]),
        (
            f"grant usage on schema bank to {LOGIN} with grant option",
            ["may grant rights in schema bank to others"],
        ),
        (
            f"grant execute on function bank.balance to {LOGIN} with grant option",
            ["may grant rights in schema bank to others"],
        ),
        (
            f"grant select on bank.hold_detail to {LOGIN} with grant option",
            ["may grant rights in schema bank to others"],
        ),
        (f"grant set on parameter session_replication_role to {LOGIN}", ["may set session_replication_role"]),
        (
            f"grant alter system on parameter work_mem to {LOGIN}",
            ["may alter the configuration of the server: work_mem"],
        ),
        (f"create domain bank.odd as text; alter domain bank.odd owner to {LOGIN}", ["owns odd of schema bank"]),
        (f"create type bank.odd as enum ('a'); alter type bank.odd owner to {LOGIN}", ["owns odd of schema bank"]),
    ],
)
def test_a_right_too_many_is_named(excess: Excess, statement: str, found: list[str]) -> None:
    assert excess(statement) == found


@pytest.mark.parametrize("privilege", ["insert", "update", "delete", "truncate", "trigger", "references"])
@pytest.mark.parametrize("relation", ["account", "entry"])
def test_every_privilege_that_changes_a_table_or_what_becomes_of_its_rows_is_named(
    excess: Excess, relation: str, privilege: str
) -> None:
    granted = f"grant {privilege} on bank.{relation} to {LOGIN}"
    assert excess(granted) == [f"may write to {relation} of schema bank"]


def test_who_may_write_to_everything_is_found_though_nothing_was_granted_on_the_bank(excess: Excess) -> None:
    found = excess(f"grant pg_write_all_data to {LOGIN}")
    assert found[0].startswith("may write to account, account_change, account_limit and ")


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("function", "create function bank.odd() returns integer language sql return 1"),
        ("sequence", "create sequence bank.odd"),
        ("table", "create view bank.odd as select 1 as one"),
        ("table", "create table bank.odd (one integer)"),
    ],
)
def test_who_owns_something_of_the_bank_is_found_also_without_rights_on_it(
    excess: Excess, kind: str, make: str
) -> None:
    found = excess(make, f"alter {kind} bank.odd owner to {LOGIN}", f"revoke all on {kind} bank.odd from {LOGIN}")
    assert "owns odd of schema bank" in found


@pytest.mark.parametrize("grant", ["maintain on bank.account", "pg_maintain"])
def test_who_may_lock_and_rewrite_tables_is_found(excess: Excess, app: Connection, grant: str) -> None:
    if app.info.server_version < 170_000:
        pytest.skip("the right to maintain a table is of PostgreSQL 17 and later")
    [found] = excess(f"grant {grant} to {LOGIN}")
    assert found.startswith("may lock and rewrite ")


@pytest.mark.parametrize(
    "grant",
    [
        "grant set on parameter track_functions to {}",
        "grant create on schema public to {}",
        "grant pg_checkpoint to {}",
    ],
)
def test_what_neither_changes_nor_reads_the_bank_is_no_right_too_many(excess: Excess, grant: str) -> None:
    assert excess(grant.format(LOGIN)) == []


def test_a_role_that_the_login_could_grant_itself_is_followed_further(excess: Excess, app: Connection) -> None:
    if app.info.server_version < 160_000:
        pytest.skip("options of a membership are of PostgreSQL 16 and later; before, each membership allows all")
    found = excess(
        f"grant bank_owner to {OTHER} with inherit false, set true",
        f"grant {OTHER} to {LOGIN} with admin true, inherit false, set false",
    )
    assert found == ["is a member of bank_owner"]


def test_who_owns_the_database_is_found(excess: Excess, bank: Bank) -> None:
    assert excess(f"alter database {bank.dbname} owner to {LOGIN}") == ["owns the database"]


# The last one allows neither, and to grant oneself both.
@pytest.mark.parametrize(
    "options",
    [
        "inherit true, set false",
        "inherit false, set true",
        "admin true, set false",
        "admin true, inherit false, set false",
    ],
)
def test_whichever_option_of_a_membership_leads_to_the_owner_it_is_found(
    excess: Excess, app: Connection, options: str
) -> None:
    if app.info.server_version < 160_000:
        pytest.skip("options of a membership are of PostgreSQL 16 and later; before, each membership allows all")
    assert excess(f"grant bank_owner to {LOGIN} with {options}") == ["is a member of bank_owner"]
    assert excess(f"grant bank_owner to {LOGIN} with inherit false, set false") == []


def test_the_login_counts_and_not_the_role_that_the_connection_has_taken(bank: Bank, app: Connection) -> None:
    assert excess_rights(app) == ["is a superuser"]
    with psycopg.connect(bank.app_url) as connection:
        assert excess_rights(connection) == []


def test_a_database_without_a_bank_has_only_rights_of_the_server(bank: Bank) -> None:
    with psycopg.connect(bank.server.conninfo("postgres")) as connection:
        connection.execute(sql.SQL("create role {} login createrole").format(sql.Identifier(LOGIN)))
        assert excess_rights(connection) == ["is a superuser"]
        assert excess_rights(connection, LOGIN) == ["may create roles"]
        connection.rollback()
