"""verify() and its slices say which key, unique index or check of the bank's tables is missing."""

import pytest
from psycopg import sql

from tests.conftest import Bank, Connection
from tests.helpers import WAY_IDS, WAYS, Row, Way, call, open_account, violations

CONSTRAINTS = """
select c.relname, k.conname, k.contype = 'c' as is_check
from pg_constraint as k
inner join pg_class as c on k.conrelid = c.oid
where c.relnamespace = 'bank'::regnamespace and k.contype in ('p', 'u', 'c') and not starts_with(c.relname, '_yoyo')
"""
"""The tables in which migrations are noted are no part of the books: whoever migrates misses what they lack."""

UNIQUE_INDEXES = """
select i.indexrelid::regclass::text as name
from pg_index as i
inner join pg_class as c on i.indrelid = c.oid
where c.relnamespace = 'bank'::regnamespace
    and i.indisunique
    and not starts_with(c.relname, '_yoyo')
    and not exists (select from pg_constraint as k where k.conindid = i.indexrelid and k.contype in ('p', 'u'))
"""


def missing(rows: list[Row]) -> list[tuple[str, str]]:
    return sorted(
        (row["detail"]["table"], row["detail"]["constraint"])
        for row in rows
        if row["violation"] == "constraint_missing"
    )


def test_each_key_unique_index_and_check_is_missed(app: Connection, owner: Connection) -> None:
    """Whatever the migrations make: a new one is added to bank._verify_constraints."""
    assert violations(app) == []
    told = set()
    constraints = owner.execute(CONSTRAINTS).fetchall()
    for row in constraints:
        with owner.transaction(force_rollback=True):
            names = sql.Identifier("bank", row["relname"]), sql.Identifier(row["conname"])
            owner.execute(sql.SQL("alter table {} drop constraint {} cascade").format(*names))
            ((table, rule),) = missing(violations(owner))
            assert table == f"bank.{row['relname']}"
            assert rule.startswith("check (") == row["is_check"]
            told.add((table, rule))
    indexes = owner.execute(UNIQUE_INDEXES).fetchall()
    for row in indexes:
        with owner.transaction(force_rollback=True):
            owner.execute(f"drop index {row['name']}".encode())
            told.update(missing(violations(owner)))
    assert len(told) == len(constraints) + len(indexes) >= 35


@pytest.mark.parametrize("verify", WAYS, ids=WAY_IDS)
@pytest.mark.parametrize(
    ("table", "copied"),
    [
        ("entry", "account_id = 2 and version = 1"),
        ("account", "account_id = 2"),
        ("transaction", "transaction_id = 1"),
        ("opening", "idempotency_key = 'a'"),
    ],
)
def test_a_row_that_is_there_twice_is_found(
    app: Connection, owner: Connection, verify: Way, table: str, copied: str
) -> None:
    ada, bob = open_account(app, 500, idempotency_key="a"), open_account(app)
    call(app, "transfer", ada, bob, 1)
    owner.execute(f"alter table bank.{table} drop constraint {table}_pkey".encode())
    owner.execute(f"insert into bank.{table} select * from bank.{table} where {copied}".encode())
    ((of_table, rule),) = missing(verify(app))
    assert of_table == f"bank.{table}"
    assert rule.startswith("primary key (")


@pytest.mark.parametrize("verify", WAYS, ids=WAY_IDS)
def test_nothing_is_missing_where_identifiers_are_always_quoted(app: Connection, verify: Way) -> None:
    app.execute("set quote_all_identifiers = on")
    assert verify(app) == []


@pytest.mark.parametrize("verify", WAYS, ids=WAY_IDS)
def test_an_index_or_a_check_that_is_not_valid_counts_as_missing(
    bank: Bank, app: Connection, owner: Connection, verify: Way
) -> None:
    owner.execute(
        "alter table bank.account drop constraint account_check,"
        " add check (balance_minor + held_minor + overdraft_limit_minor > 0) not valid"
    )
    with bank.connect("postgres") as superuser:
        superuser.execute(
            "update pg_index set indisvalid = false where indexrelid = 'bank.transaction_idempotency_key'::regclass"
        )
    assert missing(verify(app)) == [
        ("bank.account", "check (balance_minor, held_minor, overdraft_limit_minor)"),
        ("bank.transaction", "unique (ledger_id, idempotency_key) where (idempotency_key IS NOT NULL)"),
    ]


def test_a_missing_constraint_is_of_the_ledger_that_was_asked_about(app: Connection, owner: Connection) -> None:
    owner.execute("alter table bank.hold drop constraint hold_pkey")
    for ledger_id in (1, None):
        (found,) = app.execute("select * from bank.verify(%s)", [ledger_id]).fetchall()
        assert (found["violation"], found["ledger_id"]) == ("constraint_missing", ledger_id)
