"""Striped accounts: what is the same for them, and what is refused."""

import random
from collections.abc import Iterator

import pytest

from tests.conftest import Bank, Connection
from tests.helpers import (
    Row,
    balance_of,
    balances_of,
    call,
    call_all,
    hold_other_stripes,
    open_account,
    raises,
    violations,
    violations_of_slices,
)

SETTLEMENT = 1


def spread(app: Connection, owner: Connection, account_id: int, postings: int, seed: int) -> None:
    """Post back and forth, over a number of stripes that changes; then let times of entries coincide."""
    choose = random.Random(seed)  # noqa: S311 - not a secret
    other = open_account(app, 10_000)
    for _ in range(postings):
        if choose.random() < 0.2:
            # One connection has one choice among a number of stripes: the number varies the stripe.
            call(app, "stripe_account", account_id, choose.randint(1, 12))
        if choose.random() < 0.7:
            call(app, "transfer", other, account_id, choose.randint(1, 9))
        else:
            call(app, "transfer", account_id, other, choose.randint(1, 9))
    # Every four postings at the same time: an order among equals is decided by the rows.
    times = "to_timestamp(1000000000 + (transaction_id / 4) * 100)"
    owner.execute(f"update bank.transaction set created_at = {times}")
    owner.execute(f"update bank.entry set created_at = {times}")
    owner.execute(
        "update bank.account as a set last_entry_at = e.at from"
        " (select account_id, max(created_at) as at from bank.entry group by 1) as e where a.account_id = e.account_id"
    )
    assert violations(app) == []


def entries_in_order(owner: Connection, account_id: int) -> list[Row]:
    """The entries of all rows of an account, newest first, by sorting them all."""
    rows = owner.execute(
        "select transaction_id, amount_minor from bank.entry where bank._account_of(account_id) = %s"
        " order by created_at, account_id, version",
        [account_id],
    ).fetchall()
    balance = 0
    for version, row in enumerate(rows, 1):
        balance += row["amount_minor"]
        row |= {"version": version, "balance_after_minor": balance}
    return rows[::-1]


@pytest.mark.parametrize("page_size", [1, 7, 1000])
def test_a_statement_pages_through_all_stripes_in_one_order(app: Connection, owner: Connection, page_size: int) -> None:
    hot = call(app, "open_account", "Hot", "EUR", None)["account_id"]
    spread(app, owner, hot, 60, seed=page_size)
    expected = entries_in_order(owner, hot)
    assert len(expected) == 60
    found: list[Row] = []
    before = None
    while page := call_all(app, "statement", hot, before, page_size):
        assert len(page) <= page_size
        found += [{name: line[name] for name in expected[0]} for line in page]
        before = page[-1]["version"]
        if before == 1:
            break
    assert found == expected
    assert call(app, "account", hot)["balance_minor"] == expected[0]["balance_after_minor"]
    assert call(app, "account", hot)["version"] == 60


def test_a_statement_may_start_at_any_version(app: Connection, owner: Connection) -> None:
    hot = call(app, "open_account", "Hot", "EUR", None)["account_id"]
    spread(app, owner, hot, 60, seed=99)
    expected = {row["version"]: row for row in entries_in_order(owner, hot)}
    for version in range(1, 61):
        line = call(app, "statement", hot, version + 1, 1)
        assert {name: line[name] for name in expected[version]} == expected[version]
        assert (line["account_id"], line["counterparty_account_id"]) == (hot, hot + 1)


@pytest.fixture
def holder(bank: Bank) -> Iterator[Connection]:
    """Somebody who holds stripes in an open transaction."""
    with bank.connect("bank_owner", autocommit=False) as holder:
        yield holder
        holder.rollback()


@pytest.fixture(params=[0, 1, 62, 63])
def number(request: pytest.FixtureRequest) -> int:
    """The number of a stripe: the outermost two of either end."""
    number: int = request.param
    return number


@pytest.fixture
def hot_account(app: Connection, owner: Connection, holder: Connection, number: int) -> int:
    """An account of 64 stripes that has 5 on that one, and nothing anywhere else."""
    hot, other = open_account(app, overdraft_limit_minor=None), open_account(app, 100)
    call(app, "stripe_account", hot, 64)
    app.execute("set lock_timeout = '5s'")  # nobody waits: one stripe is free
    hold_other_stripes(holder, hot, number)
    assert call(app, "transfer", other, hot, 5)["failure_code"] is None
    holder.rollback()
    assert stripes_of(owner, hot, "balance_minor <> 0") == {number: -1}
    return hot


def stripes_of(owner: Connection, account_id: int, condition: str = "true") -> dict[int, int]:
    """Return the column `stripes` of each stripe by its number: -1 when it is in use, -2 when it was given up."""
    rows = owner.execute(
        "select account_id - bank._stripe_id(%(id)s, 0) as number, stripes from bank.account"
        f" where bank._account_of(account_id) = %(id)s and stripes < 0 and {condition}".encode(),
        {"id": account_id},
    ).fetchall()
    return {row["number"]: row["stripes"] for row in rows}


def test_what_is_on_any_one_stripe_is_the_account_s(app: Connection, hot_account: int) -> None:
    assert balances_of(app, hot_account)[:2] == (5, 0)
    assert [row["balance_minor"] for row in call_all(app, "balances", [hot_account])] == [5]
    account = call(app, "account", hot_account)
    assert (account["balance_minor"], account["version"]) == (5, 1)
    (line,) = call_all(app, "statement", hot_account)
    assert (line["version"], line["amount_minor"], line["balance_after_minor"]) == (1, 5, 5)
    lines = app.execute("select amount_minor from bank.statement_line where account_id = %s", [hot_account]).fetchall()
    assert lines == [{"amount_minor": 5}]
    assert violations(app) == []
    assert violations_of_slices(app, 7) == []
    with raises("TLBAL", "account_not_empty"):
        call(app, "close_account", hot_account)


def test_a_state_is_that_of_every_stripe(app: Connection, holder: Connection, hot_account: int, number: int) -> None:
    other = open_account(app, 100)
    call(app, "freeze_account", hot_account)
    hold_other_stripes(holder, hot_account, number)
    assert call(app, "transfer", other, hot_account, 5)["failure_code"] == "account_frozen"
    holder.rollback()
    call(app, "unfreeze_account", hot_account)
    hold_other_stripes(holder, hot_account, number)
    assert call(app, "transfer", hot_account, other, 5)["failure_code"] is None
    holder.rollback()
    assert call(app, "close_account", hot_account)["account_status"] == "closed"
    assert violations(app) == []


@pytest.mark.parametrize("stripes", [1, 2, 63])
def test_a_stripe_that_is_given_up_takes_no_posting_and_keeps_what_it_has(
    app: Connection, owner: Connection, hot_account: int, stripes: int
) -> None:
    other = open_account(app, 100)
    call(app, "stripe_account", hot_account, stripes)
    assert balance_of(app, hot_account) == 5
    assert stripes_of(owner, hot_account) == {number: -1 if number < stripes else -2 for number in range(64)}
    call(app, "transfer", other, hot_account, 7)
    assert balance_of(app, hot_account) == 12
    assert violations(app) == []


def test_a_striped_account_is_named_by_its_own_id_everywhere(app: Connection, owner: Connection) -> None:
    ada = open_account(app, 500)
    posted = call(app, "debit", ada, 200, idempotency_key="k")
    assert posted["credit_account_id"] == SETTLEMENT
    assert (posted["credit_balance_after_minor"], posted["credit_version"]) == (None, None)
    assert call(app, "find_transaction", "k") == posted
    assert call(app, "debit", ada, 200, idempotency_key="k") == {**posted, "replayed": True}
    assert call_all(app, "statement", ada)[0]["counterparty_account_id"] == SETTLEMENT
    assert [line["amount_minor"] for line in call_all(app, "statement", SETTLEMENT)] == [200, -500]
    for view in ("account_detail", "account_balance", "posting", "statement_line", "account_transaction"):
        for row in app.execute(f"select * from bank.{view}".encode()):
            for name, value in row.items():
                if name.endswith("account_id"):
                    assert value in (SETTLEMENT, ada)


def test_the_row_of_a_stripe_is_not_an_account(app: Connection, owner: Connection) -> None:
    ada = open_account(app, 500)
    row = owner.execute("select min(account_id) as id from bank.account where stripes = -1").fetchone()
    assert row is not None
    for function, arguments in (("account", ()), ("balance", ()), ("statement", ()), ("credit", (1,)), ("debit", (1,)),
                                ("stripe_account", (2,))):  # fmt: skip
        with raises("TLACC", "account_not_found", "account_id"):
            call_all(app, function, row["id"], *arguments)
    with raises("TLACC", "account_not_found", "credit_account_id"):
        call(app, "transfer", ada, row["id"], 1)
    with raises("TLACC", "account_not_found", "debit_account_id"):
        call(app, "transfer", row["id"], ada, 1)


def test_stripes_are_taken_back(app: Connection) -> None:
    hot, ada = call(app, "open_account", "Hot", "EUR", None)["account_id"], open_account(app, 100)
    assert call(app, "account", hot)["stripes"] == 0
    call(app, "stripe_account", hot, 16)
    call(app, "transfer", ada, hot, 30)
    assert call(app, "stripe_account", hot, 1)["balance_minor"] == 30
    call(app, "transfer", ada, hot, 5)
    assert (balance_of(app, hot), call(app, "account", hot)["version"]) == (35, 2)
    assert [line["balance_after_minor"] for line in call_all(app, "statement", hot)] == [35, 30]
    assert violations(app) == []


@pytest.mark.parametrize("limit", [0, 100])
def test_an_account_with_a_limit_is_not_striped(app: Connection, limit: int) -> None:
    account_id = open_account(app, overdraft_limit_minor=limit)
    with raises("TLLIM", "account_limited", "account_id"):
        call(app, "stripe_account", account_id, 2)
    assert call(app, "account", account_id)["stripes"] == 0


@pytest.mark.parametrize("stripes", [0, -1, 65, None])
def test_an_account_has_from_1_to_64_stripes(app: Connection, stripes: int | None) -> None:
    open_account(app)
    with raises("TLARG", "invalid_argument", "stripes"):
        call(app, "stripe_account", SETTLEMENT, stripes)


def test_an_unknown_account_is_not_striped(app: Connection) -> None:
    for account_id in (99, 2**63 - 1, -(2**63)):
        with raises("TLACC", "account_not_found", "account_id"):
            call(app, "stripe_account", account_id, 2)


STRIPE = "bank._account_of(account_id) = 1 and stripes < 0"


@pytest.mark.parametrize(
    ("tampering", "expected"),
    [
        (f"update bank.account set account_status = 'frozen' where {STRIPE} and account_id % 64 = 3", "stripe_differs"),
        (f"update bank.account set currency = 'USD' where {STRIPE} and account_id % 64 = 3", "stripe_differs"),
        (
            f"update bank.account set overdraft_limit_minor = 10 where {STRIPE} and account_id % 64 = 3",
            "stripe_differs",
        ),
        ("update bank.account set overdraft_limit_minor = 999 where account_id = 1", "stripe_differs"),
        (f"update bank.account set stripes = -2 where {STRIPE} and account_id % 64 = 3", "stripe_differs"),
        ("update bank.account set stripes = 15 where account_id = 1", "stripe_differs"),
        ("update bank.account set stripes = 17 where account_id = 1", "stripe_missing"),
        (f"delete from bank.account where {STRIPE} and version = 0 and account_id % 64 = 3", "stripe_missing"),
    ],
)
def test_verify_finds_a_stripe_that_disagrees(
    app: Connection, owner: Connection, tampering: str, expected: str
) -> None:
    open_account(app)
    owner.execute(tampering.encode())
    found = violations(app)
    assert expected in {row["violation"] for row in found}
    assert {row["account_id"] for row in found} == {SETTLEMENT}
    for rows_max in (1, 3, 10_000):
        by_slices = violations_of_slices(app, rows_max)
        assert sorted(by_slices, key=str) == sorted(found, key=str)


@pytest.mark.parametrize("stripes", [0, 8])
def test_a_page_costs_the_same_at_any_depth(app: Connection, owner: Connection, stripes: int) -> None:
    """Counted are the rows of the entries that the page reads, a few more than its lines."""
    hot, other = (call(app, "open_account", "Hot", "EUR", None)["account_id"] for _ in range(2))
    for part in range(max(1, stripes)):
        if stripes:
            call(app, "stripe_account", hot, part + 1)
        app.execute("select bank.post_transfers(array_fill(%s, array[500]), array_fill(%s, array[500]), %s)",
                    [other, hot, [1] * 500])  # fmt: skip
    owner.execute("analyze bank.entry, bank.transaction, bank.account")
    reads = "select seq_tup_read + idx_tup_fetch as n from pg_stat_xact_user_tables where relname = 'entry'"
    with app.transaction():
        for before in (None, 300):
            first = app.execute(reads).fetchone()
            lines = call_all(app, "statement", hot, before, 10)
            last = app.execute(reads).fetchone()
            assert len(lines) == 10
            assert first is not None
            assert last is not None
            assert last["n"] - first["n"] <= (1000 if stripes else 10)
