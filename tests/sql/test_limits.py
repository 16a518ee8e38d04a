"""Limits of an account: each stops a posting with a code of its own, in a fixed order."""

import pytest

from tests.conftest import Connection
from tests.helpers import Row, authorise, balances_of, call, call_all, codes, open_account, raises, violations

MAX = 2**53 - 1


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 1000)


@pytest.fixture
def bob(app: Connection) -> int:
    return open_account(app, 1000)


def limit(app: Connection, account_id: int, kind: str, most: int | None = None, count: int | None = None) -> Row:
    return call(app, "set_limit", account_id, kind, most, count)


def used(app: Connection, account_id: int, kind: str = "day") -> tuple[int, int]:
    (row,) = [row for row in call_all(app, "limits", account_id) if row["limit_kind"] == kind]
    return row["used_minor"], row["used_count"]


def test_the_overdraft_limit_can_be_raised_lowered_and_lifted(app: Connection, ada: int, bob: int) -> None:
    assert limit(app, ada, "overdraft", 500)["available_balance_minor"] == 1500
    assert call(app, "transfer", ada, bob, 1501)["failure_code"] == "insufficient_funds"
    assert call(app, "transfer", ada, bob, 1400)["failure_code"] is None
    with raises("TLPAS", "limit_passed_already", "amount_max_minor") as facts:
        limit(app, ada, "overdraft", 399)
    assert (facts["balance_minor"], facts["held_minor"]) == (-400, 0)
    assert limit(app, ada, "overdraft", 400)["available_balance_minor"] == 0
    assert limit(app, ada, "overdraft")["available_balance_minor"] is None
    assert call(app, "transfer", ada, bob, 100_000)["failure_code"] is None
    assert violations(app) == []


@pytest.mark.parametrize(
    ("kind", "most", "count", "passing", "failing", "code", "facts"),
    [
        ("minimum_balance", 300, None, 700, 701, "balance_below_minimum", {"limit_minor": 300}),
        ("transaction", 70, None, 70, 71, "transaction_limit_exceeded", {"limit_minor": 70}),
        ("day", 70, None, 70, 71, "day_amount_exceeded", {"limit_minor": 70, "used_minor": 0}),
        ("week", 70, None, 70, 71, "week_amount_exceeded", {"limit_minor": 70, "used_minor": 0}),
        ("month", 70, None, 70, 71, "month_amount_exceeded", {"limit_minor": 70, "used_minor": 0}),
    ],
)
def test_a_debit_may_reach_a_limit_but_not_pass_it(
    app: Connection, ada: int, bob: int, *, kind: str, most: int, count: None, passing: int, failing: int, code: str,
    facts: Row,
) -> None:  # fmt: skip
    limit(app, ada, kind, most, count)
    rejected = call(app, "transfer", ada, bob, failing)
    assert rejected["failure_code"] == code
    assert rejected["failure_detail"] == {"account_id": ada, **facts}
    assert call(app, "transfer", ada, bob, passing)["failure_code"] is None
    assert call(app, "credit", ada, 5000)["failure_code"] is None
    assert violations(app) == []


@pytest.mark.parametrize("kind", ["day", "week", "month"])
def test_a_window_has_an_amount_and_a_number_of_debits(app: Connection, ada: int, bob: int, kind: str) -> None:
    limit(app, ada, kind, 100, 2)
    assert call(app, "debit", ada, 60)["failure_code"] is None
    rejected = call(app, "transfer", ada, bob, 41)
    assert rejected["failure_code"] == f"{kind}_amount_exceeded"
    assert rejected["failure_detail"] == {"account_id": ada, "limit_minor": 100, "used_minor": 60}
    assert call(app, "transfer", ada, bob, 1)["failure_code"] is None
    rejected = call(app, "transfer", ada, bob, 1)
    assert rejected["failure_code"] == f"{kind}_count_exceeded"
    assert rejected["failure_detail"] == {"account_id": ada, "limit_count": 2, "used_count": 2}
    assert call(app, "transfer", bob, ada, 1)["failure_code"] is None
    assert used(app, ada, kind) == (61, 2)
    assert violations(app) == []


def test_a_credit_may_reach_the_maximum_but_not_pass_it(app: Connection, ada: int, bob: int) -> None:
    limit(app, ada, "maximum_balance", 1100)
    for rejected in (call(app, "transfer", bob, ada, 101), call(app, "credit", ada, 101)):
        assert rejected["failure_code"] == "balance_above_maximum"
        assert rejected["failure_detail"] == {"account_id": ada, "limit_minor": 1100}
    assert call(app, "transfer", bob, ada, 100)["failure_code"] is None
    assert violations(app) == []


def test_the_minimum_is_of_what_is_not_held(app: Connection, ada: int, bob: int) -> None:
    limit(app, ada, "minimum_balance", 300)
    hold_id = authorise(app, ada, 500, bob)
    assert call(app, "transfer", ada, bob, 201)["failure_code"] == "balance_below_minimum"
    assert call(app, "authorise", ada, 201, bob)["failure_code"] == "balance_below_minimum"
    with raises("TLPAS", "limit_passed_already"):
        limit(app, ada, "minimum_balance", 501)
    assert call(app, "transfer", ada, bob, 200)["failure_code"] is None
    assert call(app, "capture", hold_id)["failure_code"] is None
    assert balances_of(app, ada) == (300, 0, 300)
    assert violations(app) == []


def test_a_minimum_may_be_below_zero_and_stricter_than_the_overdraft(app: Connection, bob: int) -> None:
    account_id = open_account(app, overdraft_limit_minor=100)
    limit(app, account_id, "minimum_balance", -50)
    assert call(app, "transfer", account_id, bob, 101)["failure_code"] == "insufficient_funds"
    assert call(app, "transfer", account_id, bob, 51)["failure_code"] == "balance_below_minimum"
    assert call(app, "transfer", account_id, bob, 50)["failure_code"] is None
    assert violations(app) == []


def test_limits_go_before_each_other_in_the_documented_order(app: Connection, ada: int, bob: int) -> None:
    limit(app, ada, "minimum_balance", 900)
    limit(app, bob, "maximum_balance", 1100)
    limit(app, ada, "transaction", 90)
    for kind in ("month", "week", "day"):
        limit(app, ada, kind, 80, 0)
    order = ["insufficient_funds", "balance_below_minimum", "balance_above_maximum", "transaction_limit_exceeded"]
    order += [f"{kind}_{what}_exceeded" for kind in ("day", "week", "month") for what in ("amount", "count")]
    lift = [("minimum_balance", ada), ("maximum_balance", bob), ("transaction", ada)]
    found = [call(app, "transfer", ada, bob, 1001)["failure_code"]]
    for kind, account_id in lift:
        found.append(call(app, "transfer", ada, bob, 101)["failure_code"])
        limit(app, account_id, kind)
    for kind in ("day", "week", "month"):
        found += [call(app, "transfer", ada, bob, amount)["failure_code"] for amount in (81, 80)]
        limit(app, ada, kind)
    assert found == order
    assert call(app, "transfer", ada, bob, 101)["failure_code"] is None
    assert violations(app) == []


def test_a_debit_counts_in_every_window_and_a_rejected_one_in_none(app: Connection, ada: int, bob: int) -> None:
    for kind in ("day", "week", "month"):
        limit(app, ada, kind, 500, 10)
    call(app, "transfer", ada, bob, 100)
    call(app, "transfer", ada, bob, 401)
    call(app, "transfer", ada, bob, 1001)
    assert [used(app, ada, kind) for kind in ("day", "week", "month")] == [(100, 1)] * 3


def test_a_retry_does_not_count_again(app: Connection, ada: int, bob: int) -> None:
    limit(app, ada, "day", 100, 5)
    for _ in range(3):
        assert call(app, "transfer", ada, bob, 60, "key")["failure_code"] is None
    assert used(app, ada) == (60, 1)
    assert violations(app) == []


def test_a_hold_counts_once_when_it_is_authorised_and_is_not_given_back(app: Connection, ada: int, bob: int) -> None:
    limit(app, ada, "day", 100, 2)
    first = authorise(app, ada, 60, bob)
    assert used(app, ada) == (60, 1)
    assert call(app, "authorise", ada, 41, bob)["failure_code"] == "day_amount_exceeded"
    call(app, "capture", first, 30)
    call(app, "capture", first, 30)
    second = authorise(app, ada, 40, bob)
    call(app, "void", second)
    assert used(app, ada) == (100, 2)
    assert violations(app) == []


def test_a_refund_is_not_spending_but_keeps_to_the_limits_of_balances(app: Connection, ada: int, bob: int) -> None:
    paid = call(app, "transfer", bob, ada, 500)["transaction_id"]
    for kind, most in (("day", 10), ("transaction", 10), ("minimum_balance", 1100)):
        limit(app, ada, kind, most)
    assert call(app, "reverse", paid, 401)["failure_code"] == "balance_below_minimum"
    assert call(app, "reverse", paid, 400)["failure_code"] is None
    assert used(app, ada) == (0, 0)
    assert violations(app) == []


def test_a_refund_of_legs_is_no_spending_either(app: Connection, ada: int, bob: int) -> None:
    paid = call(app, "post_legs", [ada, bob], [-100, 100])["transaction_id"]
    again = call(app, "post_legs", [ada, bob], [-100, 100])["transaction_id"]
    limit(app, bob, "transaction", 99)
    assert call(app, "reverse", paid)["failure_code"] is None
    limit(app, bob, "transaction")
    limit(app, bob, "day", 99, 0)
    assert call(app, "reverse", again)["failure_code"] is None
    assert used(app, bob) == (0, 0)
    assert violations(app) == []


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["overnight", 5, None], "limit_kind"),
        ([None, 5, None], "limit_kind"),
        (["day", -1, None], "amount_max_minor"),
        (["day", "1.5", None], "amount_max_minor"),
        (["day", "NaN", None], "amount_max_minor"),
        (["overdraft", "Infinity", None], "amount_max_minor"),
        (["overdraft", -1, None], "amount_max_minor"),
        (["overdraft", MAX + 1, None], "amount_max_minor"),
        (["minimum_balance", -MAX - 1, None], "amount_max_minor"),
        (["transaction", 5, 1], "count_max"),
        (["overdraft", 5, 1], "count_max"),
        (["week", None, -1], "count_max"),
        (["week", 5, 1, " "], "reason"),
        (["week", 5, 1, "why", "x" * 256], "changed_by"),
    ],
)
def test_a_malformed_limit_is_refused(app: Connection, ada: int, arguments: list[object], field: str) -> None:
    with raises("TLARG", "invalid_argument", field):
        call(app, "set_limit", ada, *arguments)
    assert call_all(app, "limits", ada) == []
    assert call_all(app, "account_changes", ada) == []


def test_only_an_account_that_is_there_and_not_striped_has_limits(app: Connection, ada: int) -> None:
    with raises("TLACC", "account_not_found", "account_id"):
        limit(app, 99, "day", 5)
    with raises("TLSTR", "account_striped", "account_id"):
        limit(app, 1, "day", 5)
    hot = open_account(app, overdraft_limit_minor=None)
    limit(app, hot, "day", 5)
    with raises("TLLIM", "account_limited", "account_id"):
        call(app, "stripe_account", hot, 2)
    limit(app, hot, "day")
    assert call(app, "stripe_account", hot, 2)["stripes"] == 2
    assert violations(app) == []


@pytest.mark.parametrize(("kind", "most"), [("minimum_balance", 1001), ("maximum_balance", 999)])
def test_a_limit_that_the_balance_passes_already_is_refused(app: Connection, ada: int, kind: str, most: int) -> None:
    with raises("TLPAS", "limit_passed_already", "amount_max_minor"):
        limit(app, ada, kind, most)
    limit(app, ada, kind, 1000)
    assert violations(app) == []


def test_limits_count_in_every_way_to_post(app: Connection, ada: int, bob: int) -> None:
    limit(app, ada, "day", 1000, 3)
    assert codes(call_all(app, "post_transfers", [ada, ada], [bob, bob], [1, 2])) == [None, None]
    assert call(app, "post_legs", [ada, bob], [-4, 4])["failure_code"] is None
    assert used(app, ada) == (7, 3)
    assert call(app, "post_legs", [ada, bob], [-4, 4])["failure_code"] == "day_count_exceeded"
    assert call(app, "sweep", ada, bob)["failure_code"] == "day_count_exceeded"
    assert call(app, "post_legs", [bob, ada], [-4, 4])["failure_code"] is None
    assert violations(app) == []


def test_taking_away_a_limit_that_is_not_there_changes_nothing(app: Connection) -> None:
    account_id = open_account(app)
    call(app, "set_limit", account_id, "day")
    assert call_all(app, "account_changes", account_id) == []
