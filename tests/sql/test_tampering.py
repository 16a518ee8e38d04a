"""Where verify() finds each kind of violation: the one tampering that breaks this rule and as few others as can be."""

import pytest

from tests.conftest import Connection
from tests.helpers import WAY_IDS, WAYS, Way, call, open_account, violations, without_transaction_of_sum

# Transaction 1 and 2 credit accounts 2 and 3, transaction 3 moves 100 from 2 to 3 as version 2 of both, and
# transaction 4, from 3 to 2, is rejected.
LIMIT = "alter table bank.account drop constraint account_check;"
UNCHECKED = ("constraint_missing", None, None, None)

Place = tuple[str, int | None, int | None, int | None]

TAMPERINGS: dict[str, tuple[str, set[Place]]] = {
    "an account's balance": (
        "update bank.account set balance_minor = 401 where account_id = 2",
        {("account_differs_from_last_entry", 2, 3, 2)},
    ),
    "an account with entries that forgot them": (
        "update bank.account set (balance_minor, version, last_entry_at) = (0, 0, '-infinity') where account_id = 2",
        {("account_differs_from_last_entry", 2, 3, 0)},
    ),
    "an account without entries": (
        "update bank.account set balance_minor = 1 where account_id = 4",
        {("account_differs_from_last_entry", 4, None, 0)},
    ),
    "a version skipped by everybody": (
        """
        update bank.entry set version = 3 where account_id = 2 and version = 2;
        update bank.transaction set debit_version = 3 where transaction_id = 3;
        update bank.account set version = 3 where account_id = 2
        """,
        {("version_gap", 2, 3, 3)},
    ),
    "a balance changed in entry and account": (
        """
        update bank.entry set balance_after_minor = 401 where account_id = 2 and version = 2;
        update bank.account set balance_minor = 401 where account_id = 2
        """,
        {("balance_chain_broken", 2, 3, 2)},
    ),
    "a time changed everywhere": (
        """
        update bank.transaction set created_at = '2000-01-01' where transaction_id = 3;
        update bank.entry set created_at = '2000-01-01' where transaction_id = 3;
        update bank.account set last_entry_at = '2000-01-01' where account_id in (2, 3)
        """,
        {("time_runs_back", 2, 3, 2), ("time_runs_back", 3, 3, 2)},
    ),
    "a time changed in the transaction alone": (
        "update bank.transaction set created_at = created_at + interval '1 second' where transaction_id = 3",
        {("transaction_without_entry", 2, 3, 2), ("transaction_without_entry", 3, 3, 2)},
    ),
    "a last entry in the future": (
        """
        update bank.entry set created_at = '2096-01-01' where account_id = 2 and version = 2;
        update bank.account set last_entry_at = '2096-01-01' where account_id = 2
        """,
        {("entry_from_the_future", 2, 3, 2)},
    ),
    "an entry in the future before one that is not": (
        "update bank.entry set created_at = '2096-01-01' where account_id = 3 and version = 1",
        {("entry_from_the_future", 3, 2, 1), ("time_runs_back", 3, 3, 2)},
    ),
    "a failure in the future": (
        "update bank.transaction set created_at = '2096-01-01' where transaction_id = 4",
        {("transaction_from_the_future", 3, 4, None)},
    ),
    "a hold past the limit": (
        LIMIT + "update bank.account set held_minor = 401 where account_id = 2",
        {("limit_passed", 2, None, 2), ("held_differs", 2, None, 2), UNCHECKED},
    ),
    "both entries deleted and the accounts set back": (
        """
        delete from bank.entry where transaction_id = 3;
        update bank.account as a set (balance_minor, version, last_entry_at) =
            (select e.balance_after_minor, e.version, e.created_at from bank.entry as e
            where e.account_id = a.account_id)
        where a.account_id in (2, 3)
        """,
        {("transaction_without_entry", 2, 3, 2), ("transaction_without_entry", 3, 3, 2)},
    ),
    "a transaction deleted": (
        "delete from bank.transaction where transaction_id = 3",
        {("entry_without_transaction", 2, 3, 2), ("entry_without_transaction", 3, 3, 2)},
    ),
    "a success turned into a failure": (
        """
        update bank.transaction
        set transaction_status = 'failure', failure_code = 'x', debit_version = null, credit_version = null
        where transaction_id = 3
        """,
        {("entry_without_transaction", 2, 3, 2), ("entry_without_transaction", 3, 3, 2)},
    ),
    "a failure that has its versions left, as a success would": (
        LIMIT.replace("account", "transaction")
        + "update bank.transaction set (transaction_status, failure_code) = ('failure', 'x') where transaction_id = 3",
        {UNCHECKED, ("entry_without_transaction", 2, 3, 2), ("entry_without_transaction", 3, 3, 2)},
    ),
    "a transfer turned into a void that keeps its entries": (
        LIMIT.replace("account", "transaction")
        + "update bank.transaction set transaction_type = 'void' where transaction_id = 3",
        {UNCHECKED, ("entry_without_transaction", 2, 3, 2), ("entry_without_transaction", 3, 3, 2)},
    ),
    "a transaction in another currency": (
        "update bank.transaction set currency = 'USD' where transaction_id = 3",
        {("currency_differs", 2, 3, 2), ("currency_differs", 3, 3, 2)},
    ),
    "an account in another currency": (
        "update bank.account set currency = 'USD' where account_id = 2",
        {
            ("currency_does_not_sum_to_zero", None, None, None),
            ("currency_differs", 2, 1, 1),
            ("currency_differs", 2, 3, 2),
        },
    ),
    "a failure that names no account": (
        "update bank.transaction set credit_account_id = 99 where transaction_id = 4",
        {("account_missing", 99, 4, None)},
    ),
    "money made on one side": (
        """
        update bank.entry set amount_minor = -99, balance_after_minor = 401 where account_id = 2 and version = 2;
        update bank.account set balance_minor = 401 where account_id = 2
        """,
        {("currency_does_not_sum_to_zero", None, None, None), ("transaction_without_entry", 2, 3, 2)},
    ),
}


@pytest.mark.parametrize("verify", WAYS, ids=WAY_IDS)
@pytest.mark.parametrize(("tampering", "expected"), TAMPERINGS.values(), ids=TAMPERINGS)
def test_tampering_is_found_where_it_was_done(
    app: Connection, owner: Connection, tampering: str, expected: set[Place], verify: Way
) -> None:
    ada, bob, eve = open_account(app, 500), open_account(app, 500), open_account(app)
    call(app, "transfer", ada, bob, 100)
    call(app, "transfer", bob, ada, 9999)
    assert (ada, bob, eve) == (2, 3, 4)
    assert violations(app) == []
    owner.execute(tampering.encode())
    found = map(without_transaction_of_sum, verify(app))
    places = {(row["violation"], row["account_id"], row["transaction_id"], row["version"]) for row in found}
    assert places == expected


@pytest.mark.parametrize("verify", WAYS, ids=WAY_IDS)
def test_a_sum_that_is_not_zero_names_its_currency(app: Connection, owner: Connection, verify: Way) -> None:
    ada = open_account(app, 500)
    open_account(app, 500, currency="JPY")
    owner.execute("update bank.entry set amount_minor = 501 where account_id = %s", [ada])
    sums = [row["detail"] for row in verify(app) if row["violation"] == "currency_does_not_sum_to_zero"]
    assert sums == [{"currency": "EUR", "sum_minor": 1}]


@pytest.mark.parametrize("verify", WAYS, ids=WAY_IDS)
@pytest.mark.parametrize("kind", ["hold", "void"])
@pytest.mark.parametrize("in_legs", [False, True])
def test_money_made_in_what_says_that_it_moves_none_is_found(
    app: Connection, owner: Connection, verify: Way, kind: str, in_legs: bool
) -> None:
    ada, bob = open_account(app, 500), open_account(app, 500)
    if in_legs:
        call(app, "post_legs", [ada, bob], [-100, 100])
    else:
        call(app, "transfer", ada, bob, 100)
    owner.execute("alter table bank.transaction drop constraint transaction_check")
    owner.execute("update bank.transaction set transaction_type = %s where transaction_id = 3", [kind])
    owner.execute("update bank.entry set (amount_minor, balance_after_minor) = (900, 1400) where amount_minor = 100")
    owner.execute("update bank.account set balance_minor = 1400 where account_id = %s", [bob])
    found = {(row["violation"], row["account_id"], row["transaction_id"], row["version"]) for row in verify(app)}
    assert found >= {("entry_without_transaction", ada, 3, 2), ("entry_without_transaction", bob, 3, 2)}
