"""What limits say of captures: the hold counted when it was authorised, what is taken beyond it counts when it is."""

import pytest

from tests.conftest import Connection
from tests.helpers import Row, authorise, call, call_all, open_account, violations


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 10**9)


@pytest.fixture
def shop(app: Connection, ada: int) -> int:
    return open_account(app)


def used(app: Connection, account_id: int) -> dict[str, tuple[int, int]]:
    return {row["limit_kind"]: (row["used_minor"], row["used_count"]) for row in call_all(app, "limits", account_id)}


def capture(app: Connection, hold_id: int, amount_minor: int | None = None, **named: object) -> Row:
    return call(app, "capture", hold_id, amount_minor, **named)


def test_a_tolerance_passes_no_limit(app: Connection, ada: int, shop: int) -> None:
    for kind in ("transaction", "day"):
        call(app, "set_limit", ada, kind, 100)
    hold = authorise(app, ada, 1, shop, tolerance_minor=10**6)
    assert capture(app, hold, 1_000_001)["failure_code"] == "transaction_limit_exceeded"
    assert capture(app, hold, 101)["failure_code"] == "transaction_limit_exceeded"
    assert capture(app, hold, 100)["failure_code"] is None
    assert used(app, ada)["day"] == (100, 1)
    assert call(app, "debit", ada, 1)["failure_code"] == "day_amount_exceeded"
    assert violations(app) == []


@pytest.mark.parametrize("kind", ["day", "week", "month"])
def test_what_exceeds_the_hold_counts_in_the_windows_when_it_is_captured(
    app: Connection, ada: int, shop: int, kind: str
) -> None:
    call(app, "set_limit", ada, kind, 150, 1)
    hold = authorise(app, ada, 100, shop, tolerance_minor=100)
    assert used(app, ada)[kind] == (100, 1)
    exceeding = capture(app, hold, 151)
    assert exceeding["failure_code"] == f"{kind}_amount_exceeded"
    assert exceeding["failure_detail"] == {"account_id": ada, "limit_minor": 150, "used_minor": 100}
    assert capture(app, hold, 150)["failure_code"] is None
    assert used(app, ada)[kind] == (150, 1)
    assert violations(app) == []


def test_what_was_captured_before_leaves_less_of_the_hold(app: Connection, ada: int, shop: int) -> None:
    call(app, "set_limit", ada, "day", 1000)
    hold = authorise(app, ada, 100, shop, tolerance_minor=100)
    capture(app, hold, 60)
    assert used(app, ada)["day"] == (100, 1)
    capture(app, hold, 70)
    assert used(app, ada)["day"] == (130, 1)


def test_a_capture_within_the_hold_passes_windows_that_are_used_up(app: Connection, ada: int, shop: int) -> None:
    """It counted when it was authorised. The limit of a single debit is judged anew."""
    call(app, "set_limit", ada, "day", 100, 1)
    hold = authorise(app, ada, 100, shop)
    call(app, "set_limit", ada, "day", 0, 0)
    assert capture(app, hold, 60)["failure_code"] is None
    call(app, "set_limit", ada, "transaction", 39)
    assert capture(app, hold)["failure_code"] == "transaction_limit_exceeded"
    call(app, "set_limit", ada, "transaction", 40)
    assert capture(app, hold)["failure_code"] is None
    assert violations(app) == []


def test_what_a_final_capture_frees_is_not_spent(app: Connection, ada: int, shop: int) -> None:
    call(app, "set_limit", ada, "day", 1000)
    capture(app, authorise(app, ada, 100, shop), 40, final=True)
    assert used(app, ada)["day"] == (100, 1)
