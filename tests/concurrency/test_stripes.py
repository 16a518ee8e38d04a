"""A striped account lets postings pass each other, and behaves as one account in everything else.

Of a striped account a posting locks one stripe, after the accounts themselves: its connection's own choice when that is
free, or else any other that is free; it waits only when all are held.
"""

import pytest

from tests.concurrency.conftest import Sessions, posting, sqlstate_and_code
from tests.conftest import Connection
from tests.helpers import balance_of, call, call_all, hold_other_stripes, open_account, violations

SETTLEMENT = 1
STRIPES = 64
# SERIALIZABLE knows what was read by the page, and may refuse the commit of one of several that were open at once.
SEVERAL_COMMIT = pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])


def stripes_in_use(owner: Connection, account_id: int) -> int:
    rows = owner.execute(
        "select account_id from bank.account where bank._account_of(account_id) = %s and stripes < 0 and version > 0",
        [account_id],
    )
    return len(rows.fetchall())


@SEVERAL_COMMIT
def test_credits_do_not_wait_for_each_other(sessions: Sessions, app: Connection, accounts: list[int]) -> None:
    holders = [sessions.holding(f"select bank.credit({account_id}, 1)") for account_id in accounts]
    for holder in holders:
        holder.commit()
    assert balance_of(app, SETTLEMENT) == -40_004
    assert violations(app) == []


@SEVERAL_COMMIT
def test_a_posting_waits_only_when_every_stripe_is_held(
    sessions: Sessions, app: Connection, owner: Connection, accounts: list[int]
) -> None:
    call(app, "stripe_account", SETTLEMENT, 2)
    holders = [sessions.holding(f"select bank.credit({account_id}, 1)") for account_id in accounts[:2]]
    third = sessions.start(f"select * from bank.credit({accounts[2]}, 1)")
    assert third.is_blocked_by(*holders)  # which of them is a matter of its pid
    for holder in holders:
        holder.commit()
    assert third.row()["transaction_status"] == "success"
    assert balance_of(app, SETTLEMENT) == -40_003
    assert violations(app) == []


@pytest.fixture
def hot(app: Connection) -> int:
    """An account of 64 stripes."""
    account_id = open_account(app, overdraft_limit_minor=None)
    call(app, "stripe_account", account_id, STRIPES)
    return account_id


def hold_stripe(sessions: Sessions, account_id: int, number: int) -> Connection:
    """A session that holds one stripe of the account."""
    return sessions.holding(
        f"select from bank.account where account_id = bank._stripe_id({account_id}, {number}) for no key update",
        "bank_owner",
    )


POSTINGS = [
    "transfer({debit}, {credit}, 5)",
    "post_transfers(array[{debit}], array[{credit}], array[5])",
    "post_legs(array[{debit}, {credit}], array[-5, 5])",
]


@pytest.mark.parametrize("post", POSTINGS)
def test_a_posting_whose_own_stripe_is_held_takes_another_that_is_free(
    sessions: Sessions, app: Connection, accounts: list[int], hot: int, post: str
) -> None:
    session = sessions.idle()
    holder = hold_stripe(sessions, hot, session.info.backend_pid % STRIPES)
    posted = posting(session, post.format(debit=accounts[0], credit=hot))
    assert posted["transaction_status"] == "success"
    holder.rollback()
    assert balance_of(app, hot) == 5
    assert violations(app) == []


@pytest.mark.parametrize("post", POSTINGS)
@pytest.mark.parametrize("number", [0, 63])
def test_a_posting_finds_the_only_stripe_that_is_free(
    sessions: Sessions, app: Connection, owner: Connection, accounts: list[int], *, hot: int, post: str, number: int
) -> None:
    holder = sessions.idle("bank_owner", autocommit=False)
    hold_other_stripes(holder, hot, number)
    posted = posting(sessions.idle(), post.format(debit=accounts[0], credit=hot))
    assert posted["transaction_status"] == "success"
    holder.rollback()
    rows = owner.execute(
        "select account_id - bank._stripe_id(%(hot)s, 0) as number from bank.account"
        " where bank._account_of(account_id) = %(hot)s and version > 0",
        {"hot": hot},
    )
    assert rows.fetchall() == [{"number": number}]
    assert violations(app) == []


@pytest.mark.parametrize("number", [0, 63])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("freeze_account({hot})", None),
        ("close_account({hot})", "account_not_empty"),
        ("stripe_account({hot}, 1)", None),
    ],
)
def test_who_changes_a_striped_account_waits_for_a_posting_to_any_stripe_and_sees_it(
    sessions: Sessions, app: Connection, accounts: list[int], *, hot: int, number: int, change: str, code: str | None
) -> None:
    others = sessions.idle("bank_owner", autocommit=False)
    hold_other_stripes(others, hot, number)
    holder = sessions.holding(f"select bank.transfer({accounts[0]}, {hot}, 5)")
    others.rollback()
    waiter = sessions.start(f"select * from bank.{change.format(hot=hot)}")
    assert waiter.is_blocked_by(holder)
    holder.commit()
    if code is None:
        assert waiter.row()["balance_minor"] == 5
    else:
        assert sqlstate_and_code(waiter.row)[1] == code
    assert balance_of(app, hot) == 5
    assert violations(app) == []


@pytest.mark.parametrize("post", POSTINGS)
@pytest.mark.parametrize("forward", [True, False])
def test_of_two_striped_accounts_the_lower_one_s_stripe_is_taken_first_in_either_direction(
    sessions: Sessions, app: Connection, owner: Connection, *, post: str, forward: bool
) -> None:
    """Who waits for a stripe of the lower account holds none of the higher one's yet, or two would deadlock."""
    lower, higher = (open_account(app, overdraft_limit_minor=None) for _ in range(2))
    for account_id in (lower, higher):
        call(app, "stripe_account", account_id, 1)
    holder = hold_stripe(sessions, lower, 0)
    debit, credit = (lower, higher) if forward else (higher, lower)
    waiter = sessions.start(f"select * from bank.{post.format(debit=debit, credit=credit)}")
    assert waiter.is_blocked_by(holder)
    owner.execute(
        "select from bank.account where account_id = bank._stripe_id(%s, 0) for no key update nowait", [higher]
    )
    holder.rollback()
    assert waiter.row()["transaction_status"] == "success"
    assert violations(app) == []


@SEVERAL_COMMIT
def test_an_account_is_striped_while_a_posting_holds_it(
    sessions: Sessions, app: Connection, owner: Connection, accounts: list[int]
) -> None:
    hot = call(app, "open_account", "Hot", "EUR", None)["account_id"]
    holder = sessions.holding(f"select bank.transfer({accounts[0]}, {hot}, 1)")
    striping = sessions.start(f"select * from bank.stripe_account({hot}, 4)")
    assert striping.is_blocked_by(holder)
    holder.commit()
    assert striping.row()["stripes"] == 4
    holders = [sessions.holding(f"select bank.transfer({account_id}, {hot}, 10)") for account_id in accounts]
    assert balance_of(app, hot) == 1
    for holder in holders:
        holder.commit()
    assert balance_of(app, hot) == 41
    assert stripes_in_use(owner, hot) == 4
    assert violations(app) == []


@pytest.mark.parametrize("call_of_it", ["transfer({}, {}, 5)", "post_transfers(array[{}], array[{}], array[5])"])
def test_a_posting_that_waited_for_an_account_that_was_striped_meanwhile_posts_to_a_stripe(
    sessions: Sessions, app: Connection, owner: Connection, accounts: list[int], call_of_it: str
) -> None:
    hot = call(app, "open_account", "Hot", "EUR", None)["account_id"]
    striping = sessions.holding(f"select bank.stripe_account({hot}, 4)")
    waiter = sessions.start(f"select * from bank.{call_of_it.format(accounts[0], hot)}")
    assert waiter.is_blocked_by(striping)
    striping.commit()
    assert waiter.row()["transaction_status"] == "success"
    assert owner.execute("select version from bank.account where account_id = %s", [hot]).fetchone() == {"version": 0}
    assert balance_of(app, hot) == 5
    assert violations(app) == []


@pytest.mark.parametrize("singular", [True, False])
def test_a_posting_that_waited_for_a_stripe_that_was_given_up_meanwhile_posts_to_another(
    sessions: Sessions, app: Connection, accounts: list[int], singular: bool
) -> None:
    call(app, "stripe_account", SETTLEMENT, 64)
    lowering = sessions.holding(f"select bank.stripe_account({SETTLEMENT}, 1)")
    credit = "credit({}, 5)" if singular else "post(array['credit'], array[null::bigint], array[{}], array[5])"
    waiter = sessions.start(f"select * from bank.{credit.format(accounts[0])}")
    assert waiter.is_blocked_by(lowering)
    lowering.commit()
    assert waiter.row()["transaction_status"] == "success"
    assert balance_of(app, SETTLEMENT) == -40_005
    assert violations(app) == []


@SEVERAL_COMMIT
def test_transfers_both_ways_between_striped_accounts_do_not_wait(sessions: Sessions, app: Connection) -> None:
    first, second = (call(app, "open_account", name, "EUR", None)["account_id"] for name in ("One", "Two"))
    for account_id in (first, second):
        call(app, "stripe_account", account_id, 8)
    there = [sessions.holding(f"select bank.transfer({first}, {second}, 10)") for _ in range(2)]
    back = [sessions.holding(f"select bank.transfer({second}, {first}, 1)") for _ in range(2)]
    for holder in there + back:
        holder.commit()
    assert (balance_of(app, first), balance_of(app, second)) == (-18, 18)
    assert violations(app) == []


def test_one_key_posts_once_though_its_stripes_differ(sessions: Sessions, app: Connection) -> None:
    first, second = (call(app, "open_account", name, "EUR", None)["account_id"] for name in ("One", "Two"))
    for account_id in (first, second):
        call(app, "stripe_account", account_id, 8)
    statement = f"select * from bank.transfer({first}, {second}, 10, 'key')"
    holder = sessions.idle(autocommit=False)
    posted = holder.execute(statement.encode()).fetchone()
    retry = sessions.start(statement)
    assert retry.is_blocked_by(holder)
    holder.commit()
    assert posted is not None
    assert retry.row() == {**posted, "replayed": True}
    assert balance_of(app, second) == 10
    assert violations(app) == []


def test_within_a_transaction_the_same_stripe_is_used_again(
    sessions: Sessions, app: Connection, owner: Connection, accounts: list[int]
) -> None:
    before = stripes_in_use(owner, SETTLEMENT)
    with sessions.idle(autocommit=False) as session:
        for account_id in accounts:
            posting(session, f"credit({account_id}, 1)")
        session.commit()
    assert stripes_in_use(owner, SETTLEMENT) <= before + 1
    lines = call_all(app, "statement", SETTLEMENT)
    assert [line["version"] for line in lines] == list(range(8, 0, -1))


def test_a_batch_with_limits_locks_stripes_in_ascending_order_whatever_the_order_of_its_items(
    sessions: Sessions, app: Connection, accounts: list[int]
) -> None:
    """Two batches with opposite orders would deadlock, once every stripe is taken."""
    euro = accounts[0]
    yen, other_yen = (call(app, "open_account", "Eve", "JPY")["account_id"] for _ in range(2))
    yen_settlement = call(app, "credit", yen, 1)["debit_account_id"]
    for settlement in (SETTLEMENT, yen_settlement):
        call(app, "stripe_account", settlement, 1)
    call(app, "set_limit", euro, "maximum_balance", 10**9)
    holder = sessions.holding(f"select bank.credit({other_yen}, 1)")
    batch = sessions.start(
        "select * from bank.post("
        f"array['credit', 'credit'], array[null, null]::bigint[], array[{yen}, {euro}], array[1, 1])"
    )
    assert batch.is_blocked_by(holder)
    third = sessions.start(f"select * from bank.credit({accounts[1]}, 1)")
    assert third.is_blocked_by(batch.connection)
    holder.commit()
    assert [row["transaction_status"] for row in batch.rows()] == ["success", "success"]
    assert third.row()["transaction_status"] == "success"
    assert violations(app) == []
