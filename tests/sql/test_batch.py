"""post_transfers: equal to one transfer after another, and all or none when atomic."""

import json
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Bank, Connection
from tests.helpers import Row, balance_of, call, call_all, count, open_account, raises, violations

MAX = 2**53 - 1
Item = tuple[int | None, int | None, int | None, str | None, str | None]


def post(connection: Connection, items: list[Item], *, atomic: bool = False, ledger_id: int = 1) -> list[Row]:
    columns = [list(column) for column in zip(*items, strict=True)]
    return connection.execute(
        "select * from bank.post_transfers(%s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s, %s)",
        [*columns, atomic, ledger_id],
    ).fetchall()


def one_by_one(connection: Connection, items: list[Item], ledger_id: int) -> list[Row]:
    """Post with bank.transfer, and turn what it raises into the row that a batch has for it."""
    rows: list[Row] = []
    for debit, credit, amount, key, description in items:
        try:
            rows.append(call(connection, "transfer", debit, credit, amount, key, description, ledger_id=ledger_id))
        except psycopg.Error as error:
            facts = json.loads(error.diag.message_detail or "{}")
            rows.append({"transaction_id": None, "failure_code": error.diag.message_primary, "failure_detail": facts})
    return rows


def comparable(rows: list[Row], ids: dict[int, int]) -> list[Row]:
    """Drop what differs between two ledgers: times and ids; number accounts and transactions in order of use."""
    transactions: dict[int, int] = {}

    def plain(row: Row) -> Row:
        kept = {k: v for k, v in row.items() if k not in ("created_at", "ledger_id")}
        if row["transaction_id"] is not None:
            kept["transaction_id"] = transactions.setdefault(row["transaction_id"], len(transactions))
            for side in ("debit_account_id", "credit_account_id"):
                kept[side] = ids.get(row[side], row[side])
        else:
            kept = {k: kept[k] for k in ("transaction_id", "failure_code", "failure_detail")}
        detail = dict(kept["failure_detail"] or {})
        if "account_id" in detail:
            detail["account_id"] = ids.get(detail["account_id"], detail["account_id"])
        if "transaction_id" in detail:
            detail["transaction_id"] = transactions[detail["transaction_id"]]
        if kept["failure_code"] == "invalid_amount":
            detail = {}  # the singular call is given numeric, and can say more
        return {**kept, "failure_detail": detail}

    return [plain(row) for row in rows]


items = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.integers(0, 6),
        st.one_of(st.integers(1, 120), st.sampled_from([0, -5, MAX, 2**53])),
        st.one_of(st.none(), st.sampled_from(["a", "b", "c", " "])),
        st.sampled_from([None, None, "Lunch"]),
    ),
    min_size=1,
    max_size=25,
)


def test_a_batch_is_equal_to_one_transfer_after_another(bank: Bank) -> None:
    with bank.connect() as app, bank.connect("bank_owner") as owner:

        @settings(
            max_examples=150, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck)
        )
        @given(batches=st.lists(items, min_size=1, max_size=3))
        def compare(batches: list[list[Any]]) -> None:
            outcomes = []
            for function in (post, one_by_one):
                ledger_id = call(owner, "create_ledger", "Batch")["ledger_id"]
                kinds: list[tuple[str, int | None]] = [("EUR", 0), ("EUR", 100), ("EUR", None), ("EUR", 0), ("JPY", 50)]
                accounts = [
                    open_account(app, currency=currency, overdraft_limit_minor=limit, ledger_id=ledger_id)
                    for currency, limit in kinds
                ]
                owner.execute("update bank.account set account_status = 'frozen' where account_id = %s", [accounts[3]])
                call(app, "stripe_account", accounts[2], 3, ledger_id)
                numbers = {account_id: number for number, account_id in enumerate(accounts)}
                by_number = {**dict(enumerate(accounts)), 5: 10**15, 6: None}
                rows = []
                for batch in batches:
                    named = [(by_number[d], by_number[c], *rest) for d, c, *rest in batch]
                    rows += function(app, named, ledger_id=ledger_id)
                balances = app.execute(
                    "select balance_minor, version from bank.account_detail where ledger_id = %s order by account_id",
                    [ledger_id],
                ).fetchall()
                assert app.execute("select * from bank.verify(%s)", [ledger_id]).fetchall() == []
                outcomes.append((comparable(rows, numbers), balances))
            assert outcomes[0] == outcomes[1]

        compare()


def test_an_account_may_recover_within_a_batch(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app, 500)
    rows = post(app, [(ada, bob, 100, None, None), (ada, bob, 1, None, None), (bob, ada, 5, None, None),
                      (ada, bob, 5, None, None)])  # fmt: skip
    assert [row["failure_code"] for row in rows] == [None, "insufficient_funds", None, None]
    assert [row["debit_version"] for row in rows] == [2, None, 3, 4]
    assert violations(app) == []


def test_one_account_may_be_in_thousands_of_items(app: Connection) -> None:
    hot = open_account(app, 5000)
    others = [open_account(app) for _ in range(20)]
    rows = post(app, [(hot, others[number % 20], 1, f"k{number}", None) for number in range(5001)])
    assert [row["debit_balance_after_minor"] for row in rows[:5000]] == list(range(4999, -1, -1))
    assert rows[5000]["failure_code"] == "insufficient_funds"
    assert violations(app) == []


def test_a_batch_sent_again_posts_nothing(app: Connection, owner: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    batch: list[Item] = [(ada, bob, 60, "a", None), (ada, bob, 60, "b", None), (ada, bob, 60, "a", None)]
    first = post(app, batch)
    entries = count(owner, "entry")
    assert [row["replayed"] for row in first] == [False, False, True]
    assert post(app, batch) == [{**row, "replayed": True} for row in first]
    assert count(owner, "entry") == entries


FIRST = {
    "transaction_types": "transfer",
    "debit_account_ids": 2,
    "credit_account_ids": 3,
    "amounts_minor": 10,
    "idempotency_keys": "key",
    "descriptions": "Lunch",
    "external_ids": "receipt-1",
    "metadatas": '{"guests": 2}',
}


@pytest.mark.parametrize("together", [True, False], ids=["in one call", "in two calls"])
@pytest.mark.parametrize(
    ("difference", "field"),
    [
        ({"transaction_types": "debit"}, "transaction_type"),
        ({"debit_account_ids": 4}, "debit_account_id"),
        ({"credit_account_ids": 4}, "credit_account_id"),
        ({"amounts_minor": 11}, "amount_minor"),
        ({"descriptions": "Supper"}, "description"),
        ({"descriptions": None}, "description"),
        ({"external_ids": "receipt-2"}, "external_id"),
        ({"external_ids": None}, "external_id"),
        ({"metadatas": '{"guests": 3}'}, "metadata"),
        ({"metadatas": None}, "metadata"),
    ],
    ids=str,
)
def test_a_key_that_returns_replays_the_same_item_and_refuses_any_other(
    app: Connection, difference: Row, field: str, together: bool
) -> None:
    """Either of the two may be the one that has nothing where the other has something."""
    for _ in range(3):
        open_account(app, 100)
    for first, second in ((FIRST, FIRST | difference), (FIRST | difference, FIRST)):
        key = {"idempotency_keys": f"key-{first == FIRST}"}
        batch = [first | key, second | key, first | key]
        calls = [batch] if together else [[item] for item in batch]
        rows = [
            row
            for items_of_call in calls
            for row in call_all(app, "post", **{name: [item[name] for item in items_of_call] for name in FIRST})
        ]
        assert [row["failure_code"] for row in rows] == [None, "idempotency_key_reused", None]
        assert rows[1]["failure_detail"]["field"] == field
        assert rows[1]["failure_detail"]["transaction_id"] == rows[0]["transaction_id"]
        assert rows[2] == {**rows[0], "replayed": True}
    assert violations(app) == []


def test_an_atomic_batch_posts_all(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    rows = post(app, [(ada, bob, 60, "a", None), (bob, ada, 10, "b", None)], atomic=True)
    assert [row["transaction_status"] for row in rows] == ["success", "success"]
    assert (balance_of(app, ada), balance_of(app, bob)) == (50, 50)


def test_an_atomic_batch_that_is_stopped_posts_nothing_and_says_which_item_stopped_it(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    batch: list[Item] = [(ada, bob, 60, "a", None), (ada, bob, 60, "b", None), (bob, ada, 10, "c", None)]
    rows = post(app, batch, atomic=True)
    assert [row["failure_code"] for row in rows] == ["batch_aborted", "insufficient_funds", "batch_aborted"]
    assert rows[0]["failure_detail"]["stopped_by"] == 2
    assert [row["transaction_id"] is None for row in rows] == [True, False, True]
    for name in ("debit_balance_after_minor", "credit_balance_after_minor", "debit_version", "credit_version"):
        assert [row[name] for row in rows] == [None, None, None]
    assert call(app, "find_transaction", "b")["failure_code"] == "insufficient_funds"
    with raises("TLTXN", "transaction_not_found"):
        call(app, "find_transaction", "a")
    assert (balance_of(app, ada), balance_of(app, bob)) == (100, 0)
    assert violations(app) == []
    assert post(app, batch[:1], atomic=True)[0]["transaction_status"] == "success"


def test_an_atomic_batch_is_stopped_by_an_unknown_account_and_by_a_replayed_failure(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    rows = post(app, [(ada, bob, 1, None, None), (ada, 999, 1, None, None)], atomic=True)
    assert [row["failure_code"] for row in rows] == ["batch_aborted", "account_not_found"]
    call(app, "transfer", bob, ada, 50, "failed")
    rows = post(app, [(ada, bob, 1, None, None), (bob, ada, 50, "failed", None)], atomic=True)
    assert [row["failure_code"] for row in rows] == ["batch_aborted", "insufficient_funds"]
    assert rows[1]["replayed"] is True
    assert balance_of(app, ada) == 100


@pytest.mark.parametrize(
    ("arrays", "field"),
    [
        ("array[2, 3], array[3], array[1]", "debit_account_ids"),
        ("array[2], array[3, 3], array[1]", "credit_account_ids"),
        ("array[2], array[3], null", "amounts_minor"),
        ("array[]::bigint[], array[]::bigint[], array[]::bigint[]", "amounts_minor"),
        ("array[2], null, array[1]", "credit_account_ids"),
        ("array[2], array[3], array[1], array['a', 'b']", "idempotency_keys"),
        ("array[2], array[3], array[1], null, array['a', 'b']", "descriptions"),
        ("'[0:0]={2}'::bigint[], array[3], array[1]", "debit_account_ids"),
        ("array_fill(2, array[10001]), array_fill(3, array[10001]), array_fill(1, array[10001])", "amounts_minor"),
    ],
)
def test_arrays_have_one_element_an_item(app: Connection, arrays: str, field: str) -> None:
    with raises("TLARG", "invalid_argument", field):
        call_all(app, "post_transfers") if not arrays else app.execute(f"select bank.post_transfers({arrays})".encode())


def test_a_credit_comes_from_outside_whatever_debit_account_is_given(app: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    rows = call_all(app, "post", ["credit"], [ada], [bob], [60])
    assert rows[0]["debit_account_id"] not in (ada, bob)
    assert (balance_of(app, ada), balance_of(app, bob)) == (100, 60)
