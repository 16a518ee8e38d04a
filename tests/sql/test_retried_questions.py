"""A retry repeats the question of its key, whatever the answer was; under another question the key is used already."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Bank, Connection
from tests.helpers import Row, authorise, balances_of, call, call_all, open_account, raises, violations

LATER = datetime(2100, 1, 1, 12, 30, 0, 123456, tzinfo=UTC)

Ask = Callable[..., Row]


@pytest.fixture
def ada(app: Connection) -> int:
    return open_account(app, 1000)


@pytest.fixture
def bob(app: Connection, ada: int) -> int:
    return open_account(app, 500)


@pytest.fixture
def ask(app: Connection, owner: Connection, ada: int, bob: int) -> Ask:
    """Ask a question by its short name under the key of the test; the amount and so on are named."""
    branch = call(owner, "create_ledger", "Branch")["ledger_id"]
    far = [open_account(app, 0, ledger_id=branch) for _ in range(2)]
    hold = authorise(app, ada, 100, bob, tolerance_minor=50)
    call(app, "capture", hold, 30)
    paid = call(app, "transfer", ada, bob, 80)["transaction_id"]
    call(app, "reverse", paid, 20)
    split = call(app, "post_legs", [ada, bob], [-10, 10])["transaction_id"]
    # A hold more, of all that is left, so that whatever else wants money is rejected.
    questions: dict[str, tuple[Any, ...]] = {
        "capture": ("capture", hold),
        "reverse": ("reverse", paid),
        "reverse legs": ("reverse", split),
        "sweep": ("sweep", ada, bob),
        "transfer": ("transfer", ada, bob),
        "authorise": ("authorise", ada),
        "post_legs": ("post_legs", [ada, bob]),
        "transfer_to_ledger": ("transfer_to_ledger", ada, branch),
    }

    def asked(name: str, *arguments: Any, **named: Any) -> Row:
        function, *first = questions[name]
        if name == "post_legs":
            named["conditions"] = Jsonb([{"account_id": ada, **named.pop("condition")}])
        if name == "transfer_to_ledger":
            arguments = (far[arguments[0]], *arguments[1:])
        return call(app, function, *first, *arguments, idempotency_key="key", **named)

    return asked


# Name, the first call, the second call, the field that differs.
Question = tuple[str, tuple[Any, ...], Row, tuple[Any, ...], Row, str]
QUESTIONS: list[Question] = [
    ("capture", (20,), {}, (20,), {"final": True}, "final"),
    ("capture", (20,), {"final": True}, (20,), {}, "final"),
    ("capture", (), {}, (70,), {}, "amount_minor"),
    ("capture", (70,), {}, (), {}, "amount_minor"),
    ("capture", (500,), {}, (500,), {"final": True}, "final"),
    ("reverse", (), {}, (60,), {}, "amount_minor"),
    ("reverse", (60,), {}, (), {}, "amount_minor"),
    ("reverse", (60,), {}, (60,), {"force": True}, "force"),
    ("reverse", (60,), {"force": True}, (60,), {}, "force"),
    ("reverse", (500,), {}, (500,), {"force": True}, "force"),
    ("reverse legs", (), {}, (10,), {}, "amount_minor"),
    ("reverse legs", (), {}, (), {"force": True}, "force"),
    ("sweep", (), {}, (200,), {}, "at_most_minor"),
    ("sweep", (200,), {}, (), {}, "at_most_minor"),
    ("sweep", (200,), {}, (201,), {}, "at_most_minor"),
    ("authorise", (10,), {"tolerance_minor": 5}, (10,), {"tolerance_minor": 6}, "tolerance_minor"),
    ("authorise", (10,), {"expires_at": LATER}, (10,), {}, "expires_at"),
    ("authorise", (10**6,), {"tolerance_minor": 5}, (10**6,), {}, "tolerance_minor"),
    ("authorise", (10**6,), {}, (10**6,), {"expires_at": LATER}, "expires_at"),
    ("post_legs", ([-1, 1],), {"condition": {"version": 9}}, ([-1, 1],), {"condition": {"version": 8}}, "conditions"),
    ("transfer_to_ledger", (0, 10**6), {}, (1, 10**6), {}, "credit_account_id"),
    ("transfer_to_ledger", (0, 1), {}, (1, 1), {}, "credit_account_id"),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: f"{question[0]}-{question[5]}")
def test_a_key_belongs_to_one_question_whatever_came_of_it(app: Connection, ask: Ask, question: Question) -> None:
    name, first, named, second, others, field = question
    answer = ask(name, *first, **{k: dict(v) if isinstance(v, dict) else v for k, v in named.items()})
    with raises("TLKEY", "idempotency_key_reused", field) as facts:
        ask(name, *second, **{k: dict(v) if isinstance(v, dict) else v for k, v in others.items()})
    assert facts["transaction_id"] == answer["transaction_id"]
    assert ask(name, *first, **named) == {**answer, "replayed": True}
    assert violations(app) == []


def test_a_question_has_one_answer_though_its_meaning_changed(app: Connection, ask: Ask, ada: int, bob: int) -> None:
    """All that is left is another amount by then: of a hold, of a transaction, of an account."""
    swept = ask("sweep")
    call(app, "credit", ada, 77)
    assert ask("sweep") == {**swept, "replayed": True}
    assert balances_of(app, ada)[2] == 77
    assert violations(app) == []


def test_an_instant_may_be_written_in_any_time_zone(app: Connection, ask: Ask) -> None:
    first = ask("authorise", 10, expires_at=LATER)
    app.execute("set timezone = 'Asia/Kathmandu'")
    assert ask("authorise", 10, expires_at=LATER)["transaction_id"] == first["transaction_id"]


@pytest.mark.parametrize("first", ["sweep", "transfer"])
def test_a_sweep_and_a_transfer_do_not_replay_each_other(
    app: Connection, ask: Ask, ada: int, bob: int, first: str
) -> None:
    second = "transfer" if first == "sweep" else "sweep"
    ask(first, 200)
    with raises("TLKEY", "idempotency_key_reused", "transaction_type"):
        ask(second, 200)
    [item] = call_all(app, "post", ["transfer"], [ada], [bob], [200], ["key"])
    assert (item["replayed"], item["failure_code"]) == (
        (True, None) if first == "transfer" else (False, "idempotency_key_reused")
    )


def test_what_was_recorded_before_requests_were_replays_as_it_did(app: Connection, owner: Connection, ask: Ask) -> None:
    """Such rows have no request. Whether one of them was a sweep or a transfer is not known."""
    asked: list[tuple[str, tuple[Any, ...], Row]] = [
        ("capture", (), {"final": True}),
        ("reverse", (), {"force": True}),
        ("reverse legs", (), {"force": True}),
        ("sweep", (), {}),
        ("sweep", (200,), {}),
        ("authorise", (10**6,), {"tolerance_minor": 7}),
        ("post_legs", ([-1, 1],), {"condition": {"version": 8}}),
        ("transfer_to_ledger", (1, 10**6), {}),
    ]
    firsts = [
        ("capture", (20,), {}),
        ("reverse", (60,), {}),
        ("reverse legs", (), {}),
        ("sweep", (1,), {}),
        ("transfer", (3,), {}),
        ("authorise", (10**6,), {}),
        ("post_legs", ([-1, 1],), {"condition": {"version": 9}}),
        ("transfer_to_ledger", (0, 10**6), {}),
    ]
    for (name, arguments, named), (first_name, first_arguments, first_named) in zip(asked, firsts, strict=True):
        first = ask(first_name, *first_arguments, **first_named)
        owner.execute("update bank.transaction set request = null where transaction_id = %s", [first["transaction_id"]])
        owner.execute("update bank.installation set requests_recorded_from = %s", [first["transaction_id"] + 1])
        again = ask(name, *arguments, **named)
        assert again == {**first, "replayed": True}, name
        owner.execute(
            "update bank.transaction set idempotency_key = null where transaction_id = %s", [first["transaction_id"]]
        )
    assert violations(app) == []


def test_an_amount_that_was_given_is_compared_with_what_was_recorded_before_requests_were(
    app: Connection, owner: Connection, ask: Ask
) -> None:
    first = ask("capture", 20)
    owner.execute("update bank.transaction set request = null where transaction_id = %s", [first["transaction_id"]])
    with raises("TLKEY", "idempotency_key_reused", "amount_minor"):
        ask("capture", 21)


def test_a_plain_posting_stores_no_request(app: Connection, owner: Connection, ada: int, bob: int) -> None:
    call(app, "transfer", ada, bob, 1, "t")
    call(app, "credit", ada, 1, "c")
    call(app, "debit", ada, 1, bob, "d")
    call_all(app, "post", ["transfer"], [ada], [bob], [2], ["b"])
    row = owner.execute("select count(*) as n from bank.transaction where request is not null").fetchone()
    assert row == {"n": 0}


def test_a_key_is_the_same_text_whatever_collation_the_caller_s_has(bank: Bank, app: Connection, ada: int) -> None:
    """By a collation that is not deterministic other texts are equal. Only servers with ICU have such ones."""
    collation = '"C"'
    with bank.connect("postgres") as superuser, suppress(psycopg.errors.FeatureNotSupported):
        superuser.execute(
            "create collation public.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
        collation = "public.loose"
    named = f"%s collate {collation}"
    upper = call(app, "credit", ada, 1, "KEY", "WAGES")
    lower = app.execute(f"select * from bank.credit(%s, 1, {named})".encode(), [ada, "key"]).fetchone()
    assert lower is not None
    assert (lower["replayed"], lower["transaction_id"] != upper["transaction_id"]) == (False, True)
    for key, first in (("KEY", upper), ("key", lower)):
        found = app.execute(f"select * from bank.find_transaction({named})".encode(), [key]).fetchone()
        assert found is not None
        assert found["transaction_id"] == first["transaction_id"]
        again = app.execute(
            f"select * from bank.post('{{credit}}', '{{null}}', array[%s]::bigint[], '{{1}}', array[{named}])".encode(),
            [ada, key],
        ).fetchone()
        assert again is not None
        expected = (None, "idempotency_key_reused") if key == "KEY" else (lower["transaction_id"], None)
        assert (again["transaction_id"], again["failure_code"]) == expected
    with raises("TLKEY", "idempotency_key_reused", "description"):
        app.execute(f"select * from bank.credit(%s, 1, 'KEY', {named})".encode(), [ada, "wages"])
    assert violations(app) == []
