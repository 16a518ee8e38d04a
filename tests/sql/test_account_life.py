"""An account's life: frozen, unfrozen, closed, reopened, and the history of who did so."""

import datetime as dt

import pytest

from tests.conftest import Connection
from tests.helpers import Row, authorise, balance_of, call, call_all, count, open_account, raises, violations

Side = tuple[bool, bool]


@pytest.fixture(params=[0, 4], ids=["plain", "striped"])
def ada(app: Connection, request: pytest.FixtureRequest) -> int:
    """An account with 1000; striped or not makes no difference to its life."""
    account_id = open_account(app, 1000, overdraft_limit_minor=None if request.param else 0)
    if request.param:
        call(app, "stripe_account", account_id, request.param)
    return account_id


@pytest.fixture
def bob(app: Connection) -> int:
    return open_account(app, 1000)


def post(app: Connection, debit: int, credit: int, amount: int) -> set[str | None]:
    """Post in each way that there is, and return the codes."""
    posted = [
        call(app, "transfer", debit, credit, amount),
        call(app, "debit", debit, amount, credit),
        *call_all(app, "post_transfers", [debit], [credit], [amount]),
        call(app, "post_legs", [debit, credit], [-amount, amount]),
    ]
    return {row["failure_code"] for row in posted}


@pytest.mark.parametrize(
    ("frozen", "status", "debit_passes", "credit_passes"),
    [
        ((True, True), "frozen", False, False),
        ((True, False), "debits_frozen", False, True),
        ((False, True), "credits_frozen", True, False),
    ],
)
def test_a_freeze_stops_the_side_that_it_names(
    app: Connection, ada: int, bob: int, *, frozen: Side, status: str, debit_passes: bool, credit_passes: bool
) -> None:
    debits, credits = frozen
    assert call(app, "freeze_account", ada, debits, credits)["account_status"] == status
    assert post(app, ada, bob, 1) == ({None} if debit_passes else {"account_frozen"})
    assert post(app, bob, ada, 1) == ({None} if credit_passes else {"account_frozen"})
    assert call(app, "credit", ada, 1)["failure_code"] == (None if credit_passes else "account_frozen")
    assert call(app, "unfreeze_account", ada)["account_status"] == "open"
    assert post(app, ada, bob, 1) | post(app, bob, ada, 1) == {None}
    assert violations(app) == []


def test_a_frozen_side_is_named_the_debited_account_first(app: Connection, ada: int, bob: int) -> None:
    call(app, "freeze_account", ada, debits=False)
    call(app, "freeze_account", bob, credits=False)
    assert call(app, "transfer", bob, ada, 1)["failure_detail"] == {"account_id": bob}
    call(app, "unfreeze_account", bob)
    assert call(app, "transfer", bob, ada, 1)["failure_detail"] == {"account_id": ada}
    assert violations(app) == []


def test_a_freeze_replaces_the_one_before(app: Connection, ada: int) -> None:
    for debits, credits, status in ((True, False, "debits_frozen"), (False, True, "credits_frozen"),
                                    (True, True, "frozen"), (True, False, "debits_frozen")):  # fmt: skip
        assert call(app, "freeze_account", ada, debits, credits)["account_status"] == status
    for sides in ((False, False), (None, None), (None, False)):
        with raises("TLARG", "invalid_argument", "debits"):
            call(app, "freeze_account", ada, *sides)
    assert call(app, "account", ada)["account_status"] == "debits_frozen"


def test_an_account_is_closed_at_zero_and_takes_nothing_after(app: Connection, ada: int, bob: int) -> None:
    with raises("TLBAL", "account_not_empty", "account_id") as facts:
        call(app, "close_account", ada)
    assert (facts["balance_minor"], facts["held_minor"]) == (1000, 0)
    call(app, "transfer", ada, bob, 1000)
    assert call(app, "close_account", ada)["account_status"] == "closed"
    assert post(app, ada, bob, 1) | post(app, bob, ada, 1) == {"account_closed"}
    assert balance_of(app, ada) == 0
    for function in ("freeze_account", "unfreeze_account"):
        with raises("TLSTA", "account_state", "account_id") as facts:
            call(app, function, ada)
        assert facts["account_status"] == "closed"
    assert violations(app) == []


def test_a_closed_account_is_opened_again(app: Connection, ada: int, bob: int) -> None:
    call(app, "transfer", ada, bob, 1000)
    call(app, "close_account", ada)
    assert call(app, "reopen_account", ada)["account_status"] == "open"
    assert post(app, bob, ada, 1) == {None}
    call(app, "freeze_account", ada)
    with raises("TLSTA", "account_state", "account_id"):
        call(app, "reopen_account", ada)
    assert violations(app) == []


def test_an_account_is_not_closed_while_something_is_held(app: Connection) -> None:
    account_id = open_account(app, overdraft_limit_minor=100)
    hold_id = authorise(app, account_id, 40)
    with raises("TLBAL", "account_not_empty") as facts:
        call(app, "close_account", account_id)
    assert (facts["balance_minor"], facts["held_minor"]) == (0, 40)
    call(app, "void", hold_id)
    assert call(app, "close_account", account_id)["account_status"] == "closed"
    assert violations(app) == []


def test_an_overdrawn_account_is_not_closed(app: Connection, bob: int) -> None:
    account_id = open_account(app, overdraft_limit_minor=100)
    call(app, "transfer", account_id, bob, 1)
    with raises("TLBAL", "account_not_empty"):
        call(app, "close_account", account_id)


def test_a_frozen_account_is_closed_at_zero(app: Connection, ada: int, bob: int) -> None:
    call(app, "transfer", ada, bob, 1000)
    call(app, "freeze_account", ada)
    assert call(app, "close_account", ada)["account_status"] == "closed"
    changes = [(change["before"], change["after"]) for change in call_all(app, "account_changes", ada)]
    assert changes[0] == ({"account_status": "frozen"}, {"account_status": "closed"})


def test_the_history_says_who_when_from_and_to(app: Connection, ada: int, bob: int) -> None:
    started = app.execute("select clock_timestamp() as at").fetchall()[0]["at"]
    call(app, "transfer", ada, bob, 1000)
    call(app, "freeze_account", ada, True, False, "card lost", "eve")
    call(app, "unfreeze_account", ada, changed_by="eve")
    call(app, "close_account", ada, "left")
    call(app, "reopen_account", ada, "came back", "root")
    changes = call_all(app, "account_changes", ada)
    assert [change["change_number"] for change in changes] == [4, 3, 2, 1]
    assert [(c["change_type"], c["changed_by"], c["reason"], c["before"], c["after"]) for c in changes[::-1]] == [
        ("freeze", "eve", "card lost", {"account_status": "open"}, {"account_status": "debits_frozen"}),
        ("unfreeze", "eve", None, {"account_status": "debits_frozen"}, {"account_status": "open"}),
        ("close", "postgres", "left", {"account_status": "open"}, {"account_status": "closed"}),
        ("reopen", "root", "came back", {"account_status": "closed"}, {"account_status": "open"}),
    ]
    times: list[dt.datetime] = [change["changed_at"] for change in changes[::-1]]
    assert times == sorted(times)
    assert times[0] >= started


def test_the_history_has_the_limits_too(app: Connection, bob: int) -> None:
    call(app, "set_limit", bob, "overdraft", 50)
    call(app, "set_limit", bob, "day", 100, 2, "new card", "eve")
    call(app, "set_limit", bob, "day", 200)
    call(app, "set_limit", bob, "day")
    assert [(c["change_type"], c["before"], c["after"]) for c in call_all(app, "account_changes", bob)[::-1]] == [
        ("overdraft_limit", {"overdraft_limit_minor": 0}, {"overdraft_limit_minor": 50}),
        ("day_limit", {}, {"amount_max_minor": 100, "count_max": 2}),
        ("day_limit", {"amount_max_minor": 100, "count_max": 2}, {"amount_max_minor": 200, "count_max": None}),
        ("day_limit", {"amount_max_minor": 200, "count_max": None}, {"amount_max_minor": None, "count_max": None}),
    ]


def test_what_changes_nothing_is_not_in_the_history(app: Connection, owner: Connection, ada: int) -> None:
    call(app, "unfreeze_account", ada)
    call(app, "freeze_account", ada)
    call(app, "freeze_account", ada)
    assert count(owner, "account_change") == 1


def test_the_history_is_read_in_pages(app: Connection, ada: int) -> None:
    for _ in range(5):
        call(app, "freeze_account", ada)
        call(app, "unfreeze_account", ada)
    found: list[Row] = []
    before = None
    while page := call_all(app, "account_changes", ada, before, 3):
        found += page
        before = page[-1]["change_number"]
    assert [change["change_number"] for change in found] == list(range(10, 0, -1))
    for arguments, field in (([None, 0], "page_size"), ([None, 1001], "page_size"), ([0, 5], "before_change_number")):
        with raises("TLARG", "invalid_argument", field):
            call(app, "account_changes", ada, *arguments)


@pytest.mark.parametrize("function", ["freeze_account", "unfreeze_account", "close_account", "reopen_account"])
def test_who_and_why_are_texts_like_any_other(app: Connection, function: str) -> None:
    account_id = open_account(app)
    for text, fault in (("reason", " "), ("reason", "x" * 501), ("changed_by", "\t"), ("changed_by", "x" * 256)):
        with raises("TLARG", "invalid_argument", text):
            call(app, function, account_id, **{text: fault})
    for unknown in (99, None, 2**62 + 64):
        with raises("TLACC", "account_not_found"):
            call(app, function, unknown)
    assert call_all(app, "account_changes", account_id) == []


@pytest.mark.parametrize("purpose", ["settlement", "liquidity", "clearing"])
def test_the_ledger_s_own_accounts_stay_open(app: Connection, owner: Connection, purpose: str) -> None:
    """They may be empty, and everybody's postings go through them all the same."""
    account_id = open_account(app)
    (row,) = owner.execute("select bank._book_account(%s, 'EUR', 1) as account_id", [purpose]).fetchall()
    with raises("TLBOO", "book_account", "account_id"):
        call(app, "close_account", row["account_id"])
    assert call(app, "credit", account_id, 5)["failure_code"] is None
    assert call(app, "freeze_account", row["account_id"])["account_status"] == "frozen"
