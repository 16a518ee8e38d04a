"""Linked groups in a batch: all of the group's items are posted, or none."""

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Bank, Connection
from tests.helpers import Row, balance_of, call, call_all, codes, count, open_account, raises, violations
from tests.sql.model import MAX, check_posting
from tests.sql.model import Bank as Model

Item = tuple[int | None, int | None, int | None, str | None, str | None]


def post(
    app: Connection, batch: list[Item], groups: list[int | None] | None, *, atomic: bool = False, ledger_id: int = 1
) -> list[Row]:
    columns = [list(column) for column in zip(*batch, strict=True)]
    return app.execute(
        "select * from bank.post_transfers(%s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s, %s,"
        " %s::integer[])",
        [*columns, atomic, ledger_id, groups],
    ).fetchall()


def transfer(debit: int, credit: int, amount: int, key: str | None = None) -> Item:
    return debit, credit, amount, key, None


@pytest.fixture(params=[False, True], ids=["plain", "limited"])
def ada(app: Connection, request: pytest.FixtureRequest) -> int:
    """An account with 100; with a limit of its own the batch goes another way and must do the same."""
    account_id = open_account(app, 100)
    if request.param:
        call(app, "set_limit", account_id, "day", 1_000_000)
    return account_id


@pytest.fixture
def bob(app: Connection) -> int:
    return open_account(app)


def test_a_group_that_can_be_posted_is_posted(app: Connection, ada: int, bob: int) -> None:
    rows = post(app, [transfer(ada, bob, 60), transfer(bob, ada, 10), transfer(ada, bob, 50)], [1, 1, 2])
    assert codes(rows) == [None, None, None]
    assert balance_of(app, bob) == 100
    assert violations(app) == []


def test_a_group_of_which_an_item_fails_is_not_posted_and_its_neighbours_are(
    app: Connection, owner: Connection, ada: int, bob: int
) -> None:
    batch = [transfer(ada, bob, 10), *[transfer(ada, bob, amount) for amount in (20, 999, 30)], transfer(ada, bob, 40)]
    transactions = count(owner, "transaction")
    rows = post(app, batch, [None, 7, 7, 7, 8])
    assert codes(rows) == [None, "batch_aborted", "insufficient_funds", "batch_aborted", None]
    assert rows[1]["failure_detail"]["stopped_by"] == rows[3]["failure_detail"]["stopped_by"] == 3
    assert rows[2]["failure_detail"]["available_minor"] == 70
    assert [row["debit_balance_after_minor"] for row in rows] == [90, None, None, None, 50]
    assert [row["transaction_id"] is None for row in rows] == [False, True, False, True, False]
    assert count(owner, "transaction") == transactions + 3
    assert balance_of(app, ada) == 50
    assert violations(app) == []


def test_items_after_a_group_that_was_taken_back_see_the_balances_before_it(
    app: Connection, ada: int, bob: int
) -> None:
    batch = [transfer(ada, bob, 100), transfer(bob, ada, 999), transfer(bob, ada, 1), transfer(ada, bob, 100)]
    rows = post(app, batch, [1, 1, None, None])
    assert codes(rows) == ["batch_aborted", "insufficient_funds", "insufficient_funds", None]
    assert rows[3]["debit_version"] == 2
    assert violations(app) == []


def test_the_keys_of_what_was_taken_back_are_free(app: Connection, ada: int, bob: int) -> None:
    batch = [transfer(ada, bob, 10, "a"), transfer(ada, bob, 999, "b"), transfer(ada, bob, 5, "c"),
             transfer(ada, bob, 20, "a")]  # fmt: skip
    rows = post(app, batch, [1, 1, 1, 2])
    assert codes(rows) == ["batch_aborted", "insufficient_funds", "batch_aborted", None]
    assert call(app, "find_transaction", "a")["amount_minor"] == 20
    assert call(app, "find_transaction", "b")["failure_code"] == "insufficient_funds"
    with raises("TLTXN", "transaction_not_found"):
        call(app, "find_transaction", "c")
    assert post(app, batch[2:3], [1])[0]["replayed"] is False
    assert violations(app) == []


def test_a_key_used_twice_in_a_group_names_no_transaction_that_was_taken_back(
    app: Connection, ada: int, bob: int
) -> None:
    batch = [transfer(ada, bob, 10, "a"), transfer(ada, bob, 11, "a"), transfer(ada, bob, 12, "a"),
             transfer(ada, bob, 13, "a")]  # fmt: skip
    rows = post(app, batch, [1, 1, 2, 3])
    assert codes(rows) == ["batch_aborted", "idempotency_key_reused", None, "idempotency_key_reused"]
    assert "transaction_id" not in rows[1]["failure_detail"]
    assert rows[3]["failure_detail"]["transaction_id"] == rows[2]["transaction_id"]
    assert violations(app) == []


def test_a_group_sent_again_is_stopped_by_the_same_item(app: Connection, ada: int, bob: int) -> None:
    batch = [transfer(ada, bob, 10, "a"), transfer(ada, bob, 999, "b")]
    first = post(app, batch, [1, 1])
    call(app, "credit", ada, 5000)
    again = post(app, batch, [1, 1])
    assert again == [first[0], {**first[1], "replayed": True}]
    assert violations(app) == []


def test_a_group_that_was_posted_is_replayed_as_a_whole(app: Connection, ada: int, bob: int) -> None:
    batch = [transfer(ada, bob, 10, "a"), transfer(ada, bob, 90, "b")]
    first = post(app, batch, [1, 1])
    assert post(app, batch, [1, 1]) == [{**row, "replayed": True} for row in first]
    assert balance_of(app, ada) == 0
    assert violations(app) == []


def test_an_item_that_cannot_be_recorded_stops_its_group_too(app: Connection, ada: int, bob: int) -> None:
    rows = post(app, [transfer(ada, bob, 10), transfer(ada, 999, 1), transfer(ada, bob, 0), transfer(ada, bob, 1)],
                [1, 1, 2, 2])  # fmt: skip
    assert codes(rows) == ["batch_aborted", "account_not_found", "invalid_amount", "batch_aborted"]
    assert {row["transaction_id"] for row in rows} == {None}
    assert violations(app) == []


def test_the_same_number_further_on_is_another_group(app: Connection, ada: int, bob: int) -> None:
    batch = [transfer(ada, bob, 1), transfer(ada, bob, 999), transfer(ada, bob, 2), transfer(ada, bob, 4)]
    assert codes(post(app, batch, [1, 1, 2, 1])) == ["batch_aborted", "insufficient_funds", None, None]
    assert balance_of(app, bob) == 6


def test_atomic_is_one_group_of_all_items(app: Connection, ada: int, bob: int) -> None:
    batch = [transfer(ada, bob, 1), transfer(ada, bob, 2), transfer(ada, bob, 999)]
    rows = post(app, batch, [1, 2, 3], atomic=True)
    assert codes(rows) == ["batch_aborted", "batch_aborted", "insufficient_funds"]
    assert balance_of(app, bob) == 0
    assert violations(app) == []


def test_credits_and_debits_are_linked_too(app: Connection, ada: int, bob: int) -> None:
    rows = app.execute(
        "select * from bank.post(array['credit', 'debit', 'debit'], array[null, %(ada)s, %(bob)s]::bigint[],"
        " array[%(bob)s, null, null]::bigint[], array[50, 150, 50], groups => array[1, 1, 2])",
        {"ada": ada, "bob": bob},
    ).fetchall()
    assert codes(rows) == ["batch_aborted", "insufficient_funds", "insufficient_funds"]
    assert violations(app) == []


def test_there_is_a_group_for_each_item(app: Connection, ada: int, bob: int) -> None:
    with raises("TLARG", "invalid_argument", "groups"):
        post(app, [transfer(ada, bob, 1)], [1, 2])


grouped_items = st.lists(
    st.tuples(
        st.sampled_from(["transfer", "transfer", "transfer", "credit", "debit"]),
        st.integers(0, 5),
        st.integers(0, 5),
        st.one_of(st.integers(1, 120), st.sampled_from([0, -5, MAX, 2**53])),
        st.sampled_from([None, None, *"abcdefgh", " "]),
        st.sampled_from([None, 1, 1, 1, 1, 1, 2, 2]),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("limited", [False, True])
def test_groups_are_posted_or_not_as_the_model_says_and_keys_are_those_of_all_calls(bank: Bank, limited: bool) -> None:
    """Several calls share few keys, so that a group meets keys of its own, of its neighbours, and of earlier calls."""
    with bank.connect() as app, bank.connect("bank_owner") as owner:

        @settings(
            max_examples=60, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck)
        )
        @given(batches=st.lists(grouped_items, min_size=1, max_size=4))
        def compare(batches: list[list[Any]]) -> None:
            ledger_id = call(owner, "create_ledger", "Groups")["ledger_id"]
            model = Model(stripe_choice=app.info.backend_pid)
            accounts = open_accounts_of_both(app, model, ledger_id, limited=limited)
            named = [*accounts, 10**15]
            for batch in batches:
                kinds, debits, credits, amounts_minor, keys, groups = (list(x) for x in zip(*batch, strict=True))
                arguments: Row = {
                    "transaction_types": kinds,
                    "debit_account_ids": [named[number] for number in debits],
                    "credit_account_ids": [
                        None if kind == "debit" and number == debit else named[number]
                        for kind, debit, number in zip(kinds, debits, credits, strict=True)
                    ],
                    "amounts_minor": amounts_minor,
                    "idempotency_keys": keys,
                    "groups": groups,
                    "ledger_id": ledger_id,
                    "atomic": False,
                }
                outcomes = model.post(**arguments)
                rows = call_all(app, "post", **arguments)
                for row, outcome in zip(rows, outcomes, strict=True):
                    check_posting(row, outcome)
                check_details(rows, keys, groups, model, ledger_id)
            left = app.execute(
                "select account_id, balance_minor, version from bank.account_detail where ledger_id = %s", [ledger_id]
            ).fetchall()
            assert {row["account_id"]: (row["balance_minor"], row["version"]) for row in left} == {
                account.account_id: (account.balance, account.version) for account in model.accounts
            }
            assert app.execute("select * from bank.verify(%s)", [ledger_id]).fetchall() == []

        compare()


def open_accounts_of_both(app: Connection, model: Model, ledger_id: int, *, limited: bool) -> list[int]:
    """Open five accounts in the bank and in the model, and return their ids."""
    for currency, overdraft, balance in (("EUR", 0, 150), ("EUR", 100, 1), ("EUR", None, 1), ("EUR", 0, 40),
                                         ("JPY", 50, 1)):  # fmt: skip
        account = model.open_account(currency, overdraft, ledger_id)
        account.account_id = open_account(app, currency=currency, overdraft_limit_minor=overdraft, ledger_id=ledger_id)
        posted = call(app, "credit", account.account_id, balance, ledger_id=ledger_id)
        model.books[ledger_id, "settlement", currency].account_id = posted["debit_account_id"]
        check_posting(posted, model.credit(account.account_id, balance, None, ledger_id))
    books = model.books.values()
    accounts = [account.account_id for account in model.accounts if account not in books and account.account_id]
    changes: list[tuple[str, Row]] = [
        ("stripe_account", {"account_id": accounts[2], "stripes": 3}),
        ("freeze_account", {"account_id": accounts[3], "reason": None, "debits": True, "credits": True}),
    ]
    if limited:
        day = {"limit_kind": "day", "amount_max_minor": 200, "count_max": 4}
        most = {"limit_kind": "maximum_balance", "amount_max_minor": 90, "count_max": None}
        changes += [("set_limit", {"account_id": accounts[0], **day}),
                    ("set_limit", {"account_id": accounts[1], **most})]  # fmt: skip
    for function, arguments in changes:
        getattr(model, function)(**arguments, ledger_id=ledger_id)
        call(app, function, **arguments, ledger_id=ledger_id)
    return accounts


def check_details(
    rows: list[Row], keys: list[str | None], groups: list[int | None], model: Model, ledger_id: int
) -> None:
    """Check what the model does not tell: who stopped an item, and which transaction has its key."""
    positions = range(len(rows))
    for _, run in itertools.groupby(positions, lambda n: n if groups[n] is None else -(groups[n] or 0)):
        group = list(run)
        stopped = [n for n in group if rows[n]["failure_code"] == "batch_aborted"]
        if stopped:
            (stopped_by,) = set(group) - set(stopped)
            assert rows[stopped_by]["failure_code"] is not None
            assert {rows[n]["failure_detail"]["stopped_by"] for n in stopped} == {stopped_by + 1}
            assert not any(rows[n]["replayed"] for n in stopped)
    for row, key in zip(rows, keys, strict=True):
        if row["failure_code"] == "idempotency_key_reused" and "transaction_id" in row["failure_detail"]:
            assert row["failure_detail"]["transaction_id"] == model.recorded[ledger_id, key].transaction_id


def test_a_replay_in_a_group_that_is_stopped_is_not_taken_back(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    call(app, "transfer", ada, bob, 60, "key")
    rows = app.execute(
        "select * from bank.post_transfers(%s, %s, %s, %s, groups => array[1, 1, 2, 3])",
        [[ada] * 4, [bob] * 4, [60, 1000, 41, 40], ["key", "more", "next", "last"]],
    ).fetchall()
    assert codes(rows) == ["batch_aborted", "insufficient_funds", "insufficient_funds", None]
    assert (rows[0]["transaction_id"], rows[0]["replayed"]) == (None, False)
    assert call(app, "find_transaction", "key")["amount_minor"] == 60
    assert balance_of(app, ada) == 0
    assert violations(app) == []


def test_a_key_of_an_earlier_call_stops_a_group_before_an_item_that_would_be_rejected(app: Connection) -> None:
    """That the key is used is known only from the database: without that, the item looks as if it could be posted."""
    ada, bob = open_account(app, 100), open_account(app)
    used = call(app, "transfer", ada, bob, 60, "key")
    rows = post(app, [transfer(ada, bob, 5, "new"), transfer(ada, bob, 6, "key"), transfer(ada, bob, 999, "more")],
                [1, 1, 1])  # fmt: skip
    assert codes(rows) == ["batch_aborted", "idempotency_key_reused", "batch_aborted"]
    assert rows[1]["failure_detail"]["transaction_id"] == used["transaction_id"]
    assert [row["failure_detail"].get("stopped_by") for row in rows] == [2, None, 2]
    for key in ("new", "more"):
        with raises("TLTXN", "transaction_not_found"):
            call(app, "find_transaction", key)
    assert violations(app) == []


@pytest.mark.parametrize("amount", [30, 60])
def test_a_replay_in_a_group_moves_nothing_that_the_items_after_it_would_lack(app: Connection, amount: int) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    used = call(app, "transfer", ada, bob, amount, "key", "Lunch")
    batch: list[Item] = [(ada, bob, amount, "key", "Lunch"), (ada, bob, 100 - amount, "rest", None)]
    rows = post(app, batch, [1, 1])
    assert rows[0] == {**used, "replayed": True}
    assert codes(rows) == [None, None]
    assert balance_of(app, ada) == 0
    assert violations(app) == []
