"""What a call or a query reads does not grow with what it has no use for: open holds, or the history of others.

Rows and pages are counted, never time. They are counted under custom and under generic plans, because a prepared
statement has the one first and the other later.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Bank, Connection
from tests.helpers import authorise, call, call_all, open_account, violations

HOLDS = 2_000
LINES = 20_000
PLAN_CACHE_MODES = ("force_custom_plan", "force_generic_plan")

ROWS_READ = """
select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint as rows_read
from pg_stat_xact_user_tables
where schemaname = 'bank' and relname = 'hold'
"""


@pytest.fixture
def superuser(bank: Bank) -> Iterator[Connection]:
    """A connection that may vacuum and explain everything."""
    with bank.connect("postgres") as connection:
        yield connection


def hold_rows_read(connection: Connection, call_sql: str, *arguments: object) -> int:
    """Return how many rows of bank.hold a call reads, and take the call back."""
    with connection.transaction(force_rollback=True):
        connection.execute(call_sql.encode(), arguments).fetchall()
        row = connection.execute(ROWS_READ).fetchone()
        assert row is not None
        rows: int = row["rows_read"]
        return rows


def plan_of(connection: Connection, query: str, mode: str, *arguments: object) -> dict[str, Any]:
    """Execute a query of bigint parameters as a prepared statement and return its plan with what it read."""
    connection.execute(f"set plan_cache_mode = {mode}".encode())
    connection.execute("set jit = off")
    types = ", ".join(["bigint"] * len(arguments))
    connection.execute(f"prepare question ({types}) as {query}".encode())
    try:
        values = ", ".join(str(argument) for argument in arguments)
        # Once before: the catalogue's pages are read while planning.
        connection.execute(f"execute question ({values})".encode())
        row = connection.execute(
            f"explain (analyze, buffers, timing off, format json) execute question ({values})".encode()
        ).fetchone()
    finally:
        connection.execute("deallocate question")
    assert row is not None
    plan: dict[str, Any] = row["QUERY PLAN"][0]["Plan"]
    return plan


def pages(plan: dict[str, Any]) -> int:
    """Return how many pages a plan read, in memory or not, temporary ones too."""
    return sum(
        plan[key] for key in ("Shared Hit Blocks", "Shared Read Blocks", "Temp Read Blocks", "Temp Written Blocks")
    )


def entries_read(plan: dict[str, Any]) -> int:
    """Return how many rows of bank.entry a plan looked at."""
    rows: int = sum(entries_read(child) for child in plan.get("Plans", []))
    if plan.get("Relation Name") == "entry":
        rows += round((plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"])
    return rows


POSTINGS = {
    "transfer": "select * from bank.transfer(%s::bigint, 2, 1)",
    "credit": "select * from bank.credit(%s::bigint, 1)",
    "post": (
        "select * from bank.post(array_fill('transfer'::text, array[20]), array_fill(%s::bigint, array[20]),"
        " array_fill(2::bigint, array[20]), array_fill(1::bigint, array[20]))"
    ),
    "post_legs": "select * from bank.post_legs(array[%s::bigint, 2], array[-1, 1])",
    "authorise": "select * from bank.authorise(%s::bigint, 1, expires_at => now() + interval '2 days')",
    "sweep": "select * from bank.sweep(%s::bigint, 2, 1)",
    "balance": "select * from bank.balance(%s::bigint)",
    "balances": "select * from bank.balances(array[%s::bigint])",
    "account": "select * from bank.account(%s::bigint)",
}


def test_no_call_reads_the_open_holds_of_its_account(app: Connection, superuser: Connection) -> None:
    bob, ada = open_account(app, 1_000), open_account(app, 1_000_000)
    assert bob == 2
    for _ in range(HOLDS // 1_000):
        with app.transaction():
            app.execute(
                "select bank.authorise(%s::bigint, 1, 2, 0, now() + interval '1 day' + n * interval '1 second')"
                " from generate_series(1, 1000) as n",
                [ada],
            )
    hold_id = authorise(app, ada, 1, bob)
    superuser.execute("vacuum analyze bank.hold")
    calls = {
        **{name: (sql, ada) for name, sql in POSTINGS.items()},
        "capture": ("select * from bank.capture(%s::bigint)", hold_id),
        "void": ("select * from bank.void(%s::bigint)", hold_id),
    }
    for mode in PLAN_CACHE_MODES:
        with superuser.transaction(force_rollback=True):
            superuser.execute(f"set plan_cache_mode = {mode}".encode())
            for name, (sql, argument) in calls.items():
                assert hold_rows_read(superuser, sql, argument) <= 30, (mode, name)
    assert call_all(app, "balance", ada)[0]["held_minor"] == HOLDS + 1


@pytest.fixture
def history(app: Connection, owner: Connection, superuser: Connection) -> dict[str, int]:
    """A bank with one account of many lines, one of a few, and one that is striped."""
    ids = [open_account(app, overdraft_limit_minor=None) for _ in range(200)]
    hot, plain, striped = ids[0], ids[1], ids[2]
    call(owner, "stripe_account", striped, 8)
    for _ in range(LINES // 5_000):
        # A third each: of the one, of the striped one, and of all others.
        app.execute(
            "select count(*) from bank.post_transfers("
            " array(select case n %% 3 when 0 then %(hot)s when 1 then %(striped)s else %(first)s + 3 + n %% 97 end"
            "     from generate_series(1, 5000) as n),"
            " array(select %(first)s + 100 + n %% 100 from generate_series(1, 5000) as n),"
            " array_fill(1::bigint, array[5000]))",
            {"hot": hot, "striped": striped, "first": hot},
        )
    for _ in range(30):
        call(app, "transfer", plain, ids[50], 1)
    superuser.execute("vacuum analyze")
    return {"hot": hot, "plain": plain, "striped": striped, "transaction": 10_000}


NEWEST_LINES = (
    "select * from bank.statement_line where ledger_id = $1 and account_id = $2 order by version desc limit 20"
)


@pytest.mark.parametrize("mode", PLAN_CACHE_MODES)
def test_the_newest_lines_of_an_account_are_read_from_the_index(
    superuser: Connection, app: Connection, history: dict[str, int], mode: str
) -> None:
    # 20 lines, their 20 transactions, the way down to each.
    for account in ("hot", "plain"):
        assert pages(plan_of(superuser, NEWEST_LINES, mode, 1, history[account])) <= 120, account
    joined = (
        "select * from bank.account_detail as a cross join lateral ("
        " select l.version, l.amount_minor from bank.statement_line as l"
        " where l.ledger_id = a.ledger_id and l.account_id = a.account_id order by l.version desc limit 1) as newest"
        " where a.ledger_id = $1 and a.account_id = $2"
    )
    assert pages(plan_of(superuser, joined, mode, 1, history["hot"])) <= 40
    between = (
        "select * from bank.statement_line where ledger_id = $1 and account_id = $2 and version between 500 and 519"
    )
    assert pages(plan_of(superuser, between, mode, 1, history["hot"])) <= 120
    assert violations(app) == []


@pytest.mark.parametrize("mode", PLAN_CACHE_MODES)
def test_all_lines_of_an_account_are_read_without_those_of_others(
    superuser: Connection, history: dict[str, int], mode: str
) -> None:
    every = (
        "select * from bank.statement_line where ledger_id = $1 and account_id = $2 order by created_at desc limit 20"
    )
    assert entries_read(plan_of(superuser, every, mode, 1, history["plain"])) == 30
    assert entries_read(plan_of(superuser, every, mode, 1, history["hot"])) < LINES / 2


def sides_made(plan: dict[str, Any]) -> int:
    """Return how often a plan of bank.account_transaction took a transaction apart."""
    rows: int = sum(sides_made(child) for child in plan.get("Plans", []))
    if plan.get("Function Name") == "jsonb_array_elements":
        rows += plan["Actual Loops"]
    return rows


@pytest.mark.parametrize("mode", PLAN_CACHE_MODES)
def test_transactions_of_other_accounts_are_not_taken_apart(
    superuser: Connection, history: dict[str, int], mode: str
) -> None:
    query = "select * from bank.account_transaction where ledger_id = $1 and account_id = $2"
    assert sides_made(plan_of(superuser, query, mode, 1, history["plain"])) <= 30


@pytest.mark.parametrize("mode", PLAN_CACHE_MODES)
def test_lookups_read_a_few_pages(superuser: Connection, history: dict[str, int], mode: str) -> None:
    for view in ("posting", "account_transaction"):
        query = f"select * from bank.{view} where ledger_id = $1 and transaction_id = $2"
        assert pages(plan_of(superuser, query, mode, 1, history["transaction"])) <= 60, view
    for view in ("account_balance", "account_detail"):
        query = f"select * from bank.{view} where ledger_id = $1 and account_id = $2"
        for account in ("hot", "striped"):
            assert pages(plan_of(superuser, query, mode, 1, history[account])) <= 60, (view, account)
    for account in ("hot", "plain", "striped"):
        for before in ("null", "100"):
            query = f"select * from bank.statement($2, {before}, 20, $1)"
            assert pages(plan_of(superuser, query, mode, 1, history[account])) <= 700, (account, before)


def test_a_statement_line_of_a_striped_account_is_there_once(superuser: Connection, history: dict[str, int]) -> None:
    rows = superuser.execute(
        "select account_id, count(*) as lines, sum(amount_minor) as total, count(version) as versions"
        " from bank.statement_line where ledger_id = 1 and account_id in (%(striped)s, %(hot)s)"
        " group by account_id order by account_id",
        history,
    ).fetchall()
    assert [(row["lines"], int(row["total"]), row["versions"]) for row in rows] == [
        (6_664, -6_664, 6_664),
        (6_668, -6_668, 0),
    ]
    (lines,) = superuser.execute("select count(*) from bank.statement_line").fetchall()
    (entries,) = superuser.execute("select count(*) from bank.entry").fetchall()
    assert lines == entries
