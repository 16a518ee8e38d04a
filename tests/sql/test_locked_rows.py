"""bank.locked_rows says what is locked, waits for nobody, and lets go of what it looked at."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import Bank, Connection
from tests.helpers import Row, call, call_all, hold_other_stripes, open_account


@pytest.fixture
def locker(bank: Bank) -> Iterator[Connection]:
    """Somebody's own transaction."""
    with bank.connect("bank_owner", autocommit=False) as locker:
        yield locker


def lock(locker: Connection, *account_ids: int) -> None:
    locker.execute("select from bank.account where account_id = any(%s) for no key update", [list(account_ids)])


def locked(app: Connection, *account_ids: int, **named: object) -> list[tuple[str, int]]:
    app.execute("set lock_timeout = '5s'")
    rows: list[Row] = call_all(app, "locked_rows", list(account_ids), **named)
    return sorted((row["kind"], row["id"]) for row in rows)


def test_accounts_that_are_locked_are_told_and_others_are_not(app: Connection, locker: Connection) -> None:
    ada, bob = open_account(app), open_account(app)
    assert locked(app, ada, bob, 10**12) == []
    lock(locker, ada)
    assert locked(app, ada, bob, ada, 10**12) == [("account", ada)]
    assert locked(app, ada, ledger_id=2) == []
    locker.rollback()
    assert locked(app, ada, bob) == []


def test_a_lock_that_no_posting_waits_for_does_not_count(app: Connection, locker: Connection) -> None:
    """As the foreign key of somebody's own table takes it."""
    ada = open_account(app)
    locker.execute("select from bank.account where account_id = %s for key share", [ada])
    assert locked(app, ada) == []


def test_an_account_with_stripes_is_locked_when_all_of_them_are(
    app: Connection, owner: Connection, locker: Connection
) -> None:
    ada = open_account(app, overdraft_limit_minor=None)
    call(app, "stripe_account", ada, 2)
    stripes = [row["account_id"] for row in owner.execute("select account_id from bank.account where stripes = -1")]
    ours = [stripe for stripe in stripes if (stripe - 2**62) // 64 == ada]
    assert len(ours) == 2
    lock(locker, ada, ours[0])
    assert locked(app, ada) == []
    lock(locker, ours[1])
    assert locked(app, ada) == [("account", ada)]


@pytest.mark.parametrize("number", [0, 63])
def test_any_one_stripe_that_is_free_keeps_an_account_free(app: Connection, locker: Connection, number: int) -> None:
    ada = open_account(app, overdraft_limit_minor=None)
    call(app, "stripe_account", ada, 64)
    hold_other_stripes(locker, ada, number)
    assert locked(app, ada) == []


@pytest.mark.parametrize("number", [0, 63])
def test_the_holder_is_another_text_when_another_holds_any_one_stripe(
    bank: Bank, app: Connection, locker: Connection, number: int
) -> None:
    ada = open_account(app, overdraft_limit_minor=None)
    call(app, "stripe_account", ada, 64)
    hold_other_stripes(locker, ada, number)
    holders = []
    for _ in range(2):
        with bank.connect("bank_owner", autocommit=False) as other:
            other.execute(
                "select from bank.account where account_id = bank._stripe_id(%s, %s) for no key update", [ada, number]
            )
            holders.append(call(app, "locked_rows", [ada])["holder"])
            other.rollback()
    assert holders[0] != holders[1]


def test_a_stripe_that_is_given_up_keeps_no_account_free(
    app: Connection, owner: Connection, locker: Connection
) -> None:
    ada, bob = (open_account(app, overdraft_limit_minor=None) for _ in range(2))
    call(app, "stripe_account", ada, 8)
    call(app, "stripe_account", ada, 1)
    (stripe,) = owner.execute(
        "select account_id from bank.account where stripes = -1 and bank._account_of(account_id) = %s", [ada]
    ).fetchall()
    assert locked(app, ada, bob) == []
    lock(locker, stripe["account_id"])
    assert locked(app, ada, bob) == [("account", ada)]
    holder = call(app, "locked_rows", [ada])["holder"]
    assert len(holder.split()) == 1


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_what_is_no_account_hides_no_lock(app: Connection, locker: Connection, mode: str) -> None:
    """Ids whose stripes' would be above every bigint, ids of stripes, and such below zero."""
    ada = open_account(app)
    hot = open_account(app, overdraft_limit_minor=None)
    call(app, "stripe_account", hot, 2)
    stripe = 2**62 + 64 * hot
    none = [0, -1, -hot, 2**56, 2**57 + ada, 2**62 + 64 * ada, stripe, stripe + 1, stripe + 63, 2**63 - 1, -(2**63)]
    lock(locker, ada, stripe)
    app.execute(f"set plan_cache_mode = {mode}".encode())
    assert locked(app, *none, ada) == [("account", ada)]
    assert locked(app, *none) == []
    assert locked(app, ada, settled_account_ids=none) == [("account", ada)]
    assert locked(app, ada, transaction_ids=none) == [("account", ada)]


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_rows_are_looked_up_by_their_keys_also_without_statistics(
    app: Connection, owner: Connection, locker: Connection, mode: str
) -> None:
    owner.execute("alter table bank.account set (autovacuum_enabled = off)")
    owner.execute(
        "insert into bank.account (ledger_id, holder_name, currency)"
        " select 1, 'Ada', 'EUR' from generate_series(1, 20000)"
    )
    hot = open_account(app, overdraft_limit_minor=None)
    call(app, "stripe_account", hot, 2)
    asked = [*range(2, 1002), *range(10**12, 10**12 + 1000), hot]
    lock(locker, *range(2, 502))
    lock(locker, 2**62 + 64 * hot, 2**62 + 64 * hot + 1)
    app.execute(f"set plan_cache_mode = {mode}".encode())
    reads = (
        "select seq_tup_read + idx_tup_fetch as n from pg_stat_xact_user_tables where relid = 'bank.account'::regclass"
    )
    with app.transaction():
        rows = call_all(app, "locked_rows", asked)
        read = app.execute(reads).fetchone()
    assert sorted(row["id"] for row in rows) == [*range(2, 502), hot]
    assert read is not None
    assert read["n"] <= 4 * len(asked)


def test_as_it_locks_rows_it_raises_what_locks_raise(bank: Bank, app: Connection) -> None:
    ada = open_account(app)
    with bank.connect(autocommit=False) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select from bank.account_balance").fetchone()
        call(app, "credit", ada, 1)
        with pytest.raises(psycopg.errors.SerializationFailure):
            call_all(old, "locked_rows", [ada])
    with bank.connect(autocommit=False) as reader:
        reader.execute("set transaction read only")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            call_all(reader, "locked_rows", [ada])


def test_the_settlement_account_of_an_account_is_told_by_its_own_id(app: Connection, locker: Connection) -> None:
    ada = open_account(app, 5)
    row = locker.execute("select account_id from bank.account where settlement").fetchone()
    assert row is not None
    settlement = row["account_id"]
    assert locked(app, settled_account_ids=[ada, 10**12]) == []
    call(locker, "_lock_rows", settlement, 1)
    assert locked(app, settled_account_ids=[ada, 10**12]) == [("settlement", settlement)]
    assert locked(app, ada) == []


def test_a_transaction_is_locked_when_an_account_of_it_is(app: Connection, locker: Connection) -> None:
    ada, bob, eve = open_account(app, 100), open_account(app), open_account(app)
    plain = call(app, "transfer", ada, bob, 1)["transaction_id"]
    hold = call(app, "authorise", bob, 1)["transaction_id"]
    legs = call(app, "post_legs", [ada, bob, eve], [-2, 1, 1])["transaction_id"]
    ids = [plain, hold, legs, 10**12]
    assert locked(app, transaction_ids=ids) == []
    lock(locker, eve)
    assert locked(app, transaction_ids=ids) == [("transaction", legs)]
    lock(locker, bob)
    assert locked(app, transaction_ids=ids) == [("transaction", each) for each in sorted((plain, hold, legs))]


def test_the_holder_is_another_text_when_another_holds_the_lock(
    bank: Bank, app: Connection, locker: Connection
) -> None:
    ada = open_account(app)
    lock(locker, ada)
    first, again = (call(app, "locked_rows", [ada])["holder"] for _ in range(2))
    assert first == again
    locker.rollback()
    with bank.connect("bank_owner", autocommit=False) as other:
        lock(other, ada)
        assert call(app, "locked_rows", [ada])["holder"] != first


def test_what_it_locked_is_free_again_when_it_returns(app: Connection, locker: Connection) -> None:
    ada = open_account(app)
    assert locked(app, ada) == []
    locker.execute("set local lock_timeout = '5s'")
    lock(locker, ada)
