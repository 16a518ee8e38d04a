"""Holds: retries, keys, and calls that are malformed."""

import datetime as dt

import pytest

from tests.conftest import Connection
from tests.helpers import Row, authorise, balance_of, balances_of, call, open_account, raises, violations

SETTLEMENT = 1
SOON = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 1000)


@pytest.fixture
def shop(app: Connection) -> int:
    return open_account(app)


@pytest.mark.parametrize("function", ["authorise", "capture", "void"])
def test_a_retry_returns_the_first_outcome(app: Connection, ada: int, shop: int, function: str) -> None:
    def send() -> Row:
        if function == "authorise":
            return call(app, "authorise", ada, 400, shop, 5, SOON, "key", "text")
        return call(app, function, hold_id, idempotency_key="key")

    hold_id = 0 if function == "authorise" else authorise(app, ada, 400, shop)
    first = send()
    before = balances_of(app, ada)
    assert first["failure_code"] is None
    assert send() == {**first, "replayed": True}
    assert balances_of(app, ada) == before
    assert violations(app) == []


def test_a_hold_of_which_a_part_was_captured_is_given_up_once(app: Connection, ada: int, shop: int) -> None:
    """What is left of it afterwards is not what the first call gave up."""
    hold_id = authorise(app, ada, 400, shop)
    call(app, "capture", hold_id, 150)
    first = call(app, "void", hold_id, idempotency_key="key")
    assert (first["failure_code"], first["amount_minor"]) == (None, 250)
    assert call(app, "void", hold_id, idempotency_key="key") == {**first, "replayed": True}
    assert balances_of(app, ada) == (850, 0, 850)
    assert violations(app) == []


def test_a_retry_of_a_part_that_was_followed_by_others_returns_the_first_outcome(
    app: Connection, owner: Connection, ada: int, shop: int
) -> None:
    hold_id = authorise(app, ada, 400, shop, expires_at=SOON, idempotency_key="hold")
    part = call(app, "capture", hold_id, 100, idempotency_key="part")
    rest = call(app, "capture", hold_id, idempotency_key="rest")
    assert call(app, "capture", hold_id, 100, idempotency_key="part") == {**part, "replayed": True}
    assert call(app, "capture", hold_id, idempotency_key="rest") == {**rest, "replayed": True}
    assert balance_of(app, shop) == 400
    assert violations(app) == []


def test_an_authorisation_is_retried_after_its_deadline(
    app: Connection, owner: Connection, ada: int, shop: int
) -> None:
    past = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    hold_id = authorise(app, ada, 400, shop, expires_at=SOON, idempotency_key="hold")
    owner.execute("update bank.hold set expires_at = %s", [past])
    owner.execute(
        'update bank.transaction set request = request || \'{"expires_at": "2026-01-01T00:00:00"}\' '
        "where transaction_id = %s",
        [hold_id],
    )
    retried = call(app, "authorise", ada, 400, shop, expires_at=past, idempotency_key="hold")
    assert (retried["transaction_id"], retried["replayed"]) == (hold_id, True)
    assert violations(app) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount_minor": 401}, "amount_minor"),
        ({"beneficiary_account_id": None}, "beneficiary_account_id"),
        ({"tolerance_minor": 6}, "tolerance_minor"),
        ({"expires_at": None}, "expires_at"),
        ({"description": "Other"}, "description"),
    ],
)
def test_an_authorisation_s_key_belongs_to_one_request(
    app: Connection, ada: int, shop: int, change: Row, field: str
) -> None:
    request: Row = {
        "account_id": ada, "amount_minor": 400, "beneficiary_account_id": shop, "tolerance_minor": 5,
        "expires_at": SOON, "idempotency_key": "key", "description": "Hotel",
    }  # fmt: skip
    call(app, "authorise", **request)
    with raises("TLKEY", "idempotency_key_reused", field):
        call(app, "authorise", **{**request, **change})
    assert balances_of(app, ada) == (1000, 400, 600)


def test_a_capture_s_key_belongs_to_one_hold_and_one_amount(app: Connection, ada: int, shop: int) -> None:
    first, second = authorise(app, ada, 100, shop), authorise(app, ada, 100, shop)
    call(app, "capture", first, 60, idempotency_key="key")
    with raises("TLKEY", "idempotency_key_reused", "amount_minor"):
        call(app, "capture", first, 40, idempotency_key="key")
    with raises("TLKEY", "idempotency_key_reused", "hold_id"):
        call(app, "capture", second, 60, idempotency_key="key")
    with raises("TLKEY", "idempotency_key_reused", "transaction_type"):
        call(app, "void", first, idempotency_key="key")
    assert balances_of(app, ada) == (940, 140, 800)
    assert violations(app) == []


PAST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"amount_minor": 0}, ("TLAMT", "invalid_amount", "amount_minor")),
        ({"amount_minor": "NaN"}, ("TLAMT", "invalid_amount", "amount_minor")),
        ({"tolerance_minor": -1}, ("TLARG", "invalid_argument", "tolerance_minor")),
        ({"tolerance_minor": "1.5"}, ("TLARG", "invalid_argument", "tolerance_minor")),
        ({"tolerance_minor": "NaN"}, ("TLARG", "invalid_argument", "tolerance_minor")),
        ({"tolerance_minor": None}, ("TLARG", "invalid_argument", "tolerance_minor")),
        ({"tolerance_minor": 2**53}, ("TLARG", "invalid_argument", "tolerance_minor")),
        ({"expires_at": PAST}, ("TLARG", "invalid_argument", "expires_at")),
        ({"expires_at": "infinity"}, ("TLARG", "invalid_argument", "expires_at")),
        ({"expires_at": "-infinity"}, ("TLARG", "invalid_argument", "expires_at")),
        ({"description": " "}, ("TLARG", "invalid_argument", "description")),
        ({"account_id": 99}, ("TLACC", "account_not_found", "account_id")),
        ({"account_id": None}, ("TLARG", "invalid_argument", "account_id")),
        ({"beneficiary_account_id": 99}, ("TLACC", "account_not_found", "beneficiary_account_id")),
        ({"account_id": 99, "beneficiary_account_id": 98}, ("TLACC", "account_not_found", "account_id")),
        ({"account_id": SETTLEMENT}, ("TLSTR", "account_striped", "account_id")),
    ],
)
def test_a_malformed_authorisation_raises(
    app: Connection, ada: int, shop: int, change: Row, error: tuple[str, str, str]
) -> None:
    request: Row = {"account_id": ada, "amount_minor": 400, "beneficiary_account_id": shop}
    with raises(*error):
        call(app, "authorise", **{**request, **change})
    assert balances_of(app, ada) == (1000, 0, 1000)


def test_only_a_successful_authorisation_of_this_ledger_is_a_hold(
    app: Connection, owner: Connection, ada: int, shop: int
) -> None:
    hold_id = authorise(app, ada, 400, shop)
    other_ledger = call(owner, "create_ledger", "Other")["ledger_id"]
    others = [
        (call(app, "transfer", ada, shop, 1)["transaction_id"], 1),
        (call(app, "authorise", ada, 9999, shop)["transaction_id"], 1),
        (hold_id, other_ledger),
        (99, 1),
        (None, 1),
    ]
    for function in ("capture", "void", "hold"):
        for number, ledger_id in others:
            with raises("TLHLD", "hold_not_found", "hold_id"):
                call(app, function, number, ledger_id=ledger_id)
    with raises("TLAMT", "invalid_amount", "amount_minor"):
        call(app, "capture", hold_id, 0)
    assert balances_of(app, ada) == (999, 400, 599)
    assert violations(app) == []


def test_a_hold_from_before_late_deadlines_were_refused_is_retried(
    app: Connection, owner: Connection, ada: int
) -> None:
    hold_id = authorise(app, ada, 10, expires_at=SOON, idempotency_key="late")
    late = dt.datetime(9999, 6, 1, tzinfo=dt.UTC)
    owner.execute(
        'update bank.transaction set request = request || \'{"expires_at": "9999-06-01T00:00:00"}\' '
        "where transaction_id = %s",
        [hold_id],
    )
    retried = call(app, "authorise", ada, 10, expires_at=late, idempotency_key="late")
    assert (retried["transaction_id"], retried["replayed"]) == (hold_id, True)
    with raises("TLARG", "invalid_argument", "expires_at"):
        call(app, "authorise", ada, 10, expires_at=late, idempotency_key="another")
