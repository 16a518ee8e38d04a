"""Holds with a deadline: from that moment they do not count, whoever ends them, and they are ended once."""

import datetime as dt

import pytest

from tests.conftest import Connection
from tests.helpers import authorise, balances_of, call, expire, hold_state, open_account, violations

SOON = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 1000)


@pytest.fixture
def shop(app: Connection) -> int:
    return open_account(app)


def test_an_expired_hold_stops_counting_before_anybody_ends_it(
    app: Connection, owner: Connection, ada: int, shop: int
) -> None:
    hold_id = authorise(app, ada, 400, shop, expires_at=SOON)
    other = authorise(app, ada, 50, shop)
    expire(owner, hold_id)
    assert balances_of(app, ada) == (1000, 50, 950)
    assert call(app, "account", ada)["held_minor"] == 50
    assert hold_state(app, hold_id) == ("expired", 0, 0)
    assert owner.execute("select held_minor from bank.account where account_id = %s", [ada]).fetchone() == {
        "held_minor": 450
    }
    assert call(app, "transfer", ada, shop, 950)["failure_code"] is None
    assert hold_state(app, other) == ("open", 0, 50)
    assert violations(app) == []


@pytest.mark.parametrize("function", ["capture", "void"])
def test_an_expired_hold_is_neither_captured_nor_given_up(
    app: Connection, owner: Connection, ada: int, shop: int, function: str
) -> None:
    hold_id = authorise(app, ada, 400, shop, expires_at=SOON)
    call(app, "capture", hold_id, 100)
    expire(owner, hold_id)
    rejected = call(app, function, hold_id)
    assert rejected["failure_code"] == "hold_not_open"
    assert rejected["failure_detail"] == {"hold_id": hold_id, "hold_status": "expired"}
    assert balances_of(app, ada) == (900, 0, 900)
    assert violations(app) == []


@pytest.mark.parametrize(
    "post", ["transfer(2, 3, 1000)", "post_transfers('{2}', '{3}', '{1000}')", "post_legs('{2, 3}', '{-1000, 1000}')"]
)
def test_every_way_to_post_sees_that_a_hold_has_expired(
    app: Connection, owner: Connection, ada: int, shop: int, post: str
) -> None:
    assert (ada, shop) == (2, 3)
    expire(owner, authorise(app, ada, 400, shop, expires_at=SOON))
    posted = app.execute(f"select * from bank.{post}".encode()).fetchone()
    assert posted is not None
    assert posted["failure_code"] is None
    assert balances_of(app, ada) == (0, 0, 0)
    assert violations(app) == []


def test_the_sweeper_ends_what_has_expired_and_nothing_else(
    app: Connection, owner: Connection, ada: int, shop: int
) -> None:
    eve = open_account(app, 100)
    gone = [authorise(app, ada, 10, shop, expires_at=SOON), authorise(app, eve, 20, shop, expires_at=SOON)]
    kept = [authorise(app, ada, 30, shop), authorise(app, eve, 40, shop, expires_at=SOON)]
    for hold_id in gone:
        expire(owner, hold_id)
    assert call(app, "end_expired_holds", 1)["end_expired_holds"] == 1
    assert call(app, "end_expired_holds")["end_expired_holds"] == 1
    assert call(app, "end_expired_holds")["end_expired_holds"] == 0
    statuses = owner.execute("select hold_id, hold_status from bank.hold order by hold_id").fetchall()
    assert statuses == [
        {"hold_id": hold_id, "hold_status": "expired" if hold_id in gone else "open"} for hold_id in sorted(gone + kept)
    ]
    assert (balances_of(app, ada), balances_of(app, eve)) == ((1000, 30, 970), (100, 40, 60))
    assert violations(app) == []


@pytest.mark.parametrize("function", ["capture", "void"])
def test_a_deadline_that_passes_within_a_call_frees_the_hold_once(
    app: Connection, owner: Connection, ada: int, shop: int, function: str
) -> None:
    """The call looks at the hold and then posts: the clock may pass the deadline between the two."""
    hold_id = authorise(app, ada, 400, shop, expires_at=SOON)
    authorise(app, ada, 500, shop)
    owner.execute(
        """
        create or replace function bank._posting_fault(
            idempotency_key text, description text, external_id text, metadata jsonb
        ) returns jsonb language sql
        as 'update bank.hold set expires_at = now() where amount_minor = 400 returning null::jsonb'
        """
    )
    assert call(app, function, hold_id)["failure_code"] is None
    assert call(app, "hold", hold_id)["expires_at"] < SOON
    assert balances_of(app, ada)[1] == 500
    assert violations(app) == []


@pytest.mark.parametrize(("function", "arguments"), [("stripe_account", [2]), ("close_account", [])])
def test_an_account_whose_holds_have_expired_is_striped_and_closed(
    app: Connection, owner: Connection, function: str, arguments: list[int]
) -> None:
    account_id = open_account(app, overdraft_limit_minor=None)
    expire(owner, authorise(app, account_id, 5, expires_at=SOON))
    assert call(app, function, account_id, *arguments)["held_minor"] == 0
    assert violations(app) == []


def test_an_expired_hold_does_not_stand_in_the_way_of_a_limit(app: Connection, owner: Connection, ada: int) -> None:
    expire(owner, authorise(app, ada, 400, expires_at=SOON))
    assert call(app, "set_limit", ada, "minimum_balance", 1000)["held_minor"] == 0
    assert violations(app) == []
