"""Where verify() finds what is wrong with holds, reversals, limits and legs: one tampering for each rule."""

import pytest

from tests.conftest import Connection
from tests.helpers import WAY_IDS, WAYS, Way, authorise, call, open_account, violations

Place = tuple[str, int | None, int | None]

# Accounts 2 to 4. Transaction 2 holds 100 of account 2, of which 3 captured 40; transaction 4 moved 50 from 2 to 3, of
# which 5 took 20 back; transaction 6 has the legs -30, 10 and 20 on 2, 3 and 4, and 7 took them back.
TAMPERINGS: dict[str, tuple[str, set[Place]]] = {
    "more held than there are holds": (
        "update bank.account set held_minor = 61 where account_id = 2",
        {("held_differs", 2, None)},
    ),
    "less held than there are holds": (
        "update bank.account set held_minor = 0 where account_id = 2",
        {("held_differs", 2, None)},
    ),
    "a hold ended without giving back what it held": (
        "update bank.hold set (hold_status, ended_at) = ('voided', now())",
        {("held_differs", 2, None)},
    ),
    "a hold on another account": (
        "update bank.hold set account_id = 4",
        {("held_differs", 2, None), ("held_differs", 4, None), ("hold_differs", 4, 2)},
    ),
    "a hold that says that more was captured": (
        "update bank.hold set captured_minor = 41; update bank.account set held_minor = 59 where account_id = 2",
        {("hold_differs", 2, 2)},
    ),
    "a larger hold than was authorised": (
        "update bank.hold set amount_minor = 101; update bank.account set held_minor = 61 where account_id = 2",
        {("hold_differs", 2, 2)},
    ),
    "a hold that nobody authorised": (
        "insert into bank.hold (ledger_id, hold_id, account_id, amount_minor, hold_status, ended_at)"
        " values (1, 99, 3, 5, 'voided', now())",
        {("hold_differs", 3, 99)},
    ),
    "an authorisation without its hold": (
        "delete from bank.hold; update bank.account set held_minor = 0 where account_id = 2",
        {("hold_differs", None, 2)},
    ),
    "a capture of another hold": (
        "update bank.transaction set original_transaction_id = 99 where transaction_id = 3",
        {("hold_differs", 2, 2)},
    ),
    "more reversed than there was": (
        "update bank.transaction set original_transaction_id = 4 where transaction_id in (5, 9)",
        {("reversal_exceeds_original", None, 4), ("reversed_differs", None, 8), ("reversed_differs", None, 4)},
    ),
    "legs reversed twice": (
        "update bank.transaction set original_transaction_id = 6 where transaction_id in (5, 7)",
        {("reversal_exceeds_original", None, 6), ("reversed_differs", None, 4)},
    ),
    "a reversal of nothing": (
        "update bank.transaction set original_transaction_id = 99 where transaction_id = 5",
        {("reversal_exceeds_original", None, 99), ("reversed_differs", None, 4)},
    ),
    "a reversal of a failure": (
        "update bank.transaction set original_transaction_id = 10 where transaction_id = 5",
        {("reversal_exceeds_original", None, 10), ("reversed_differs", None, 4), ("reversed_differs", None, 10)},
    ),
    "a reversal that its original does not know": (
        "update bank.transaction set reversed_minor = null where transaction_id = 4",
        {("reversed_differs", None, 4)},
    ),
    "legs that are said to be reversed": (
        "update bank.transaction set reversed_minor = 29 where transaction_id = 6",
        {("reversed_differs", None, 6)},
    ),
    "a limit that postings overlook": (
        "update bank.account set limited = false where account_id = 3",
        {("limit_overlooked", 3, None)},
    ),
    "an account that looks for limits that it has not": (
        "update bank.account set limited = true where account_id = 4",
        {("limit_overlooked", 4, None)},
    ),
    "a leg that was changed": (
        "update bank.transaction set legs = jsonb_set(legs, '{1,amount_minor}', '11') where transaction_id = 6",
        {("transaction_without_entry", 3, 6)},
    ),
    "a leg that was taken away": (
        "update bank.transaction set legs = legs - 1 where transaction_id = 6",
        {("entry_without_transaction", 3, 6)},
    ),
    "a leg in another currency": (
        "update bank.transaction set legs = jsonb_set(legs, '{1,currency}', '\"USD\"') where transaction_id = 6",
        {("currency_differs", 3, 6)},
    ),
}


@pytest.mark.parametrize("verify", WAYS, ids=WAY_IDS)
@pytest.mark.parametrize(("tampering", "expected"), TAMPERINGS.values(), ids=TAMPERINGS)
def test_tampering_is_found_where_it_was_done(
    app: Connection, owner: Connection, tampering: str, expected: set[Place], verify: Way
) -> None:
    ada, bob, eve = open_account(app, 500), open_account(app), open_account(app)
    call(app, "capture", authorise(app, ada, 100, bob), 40)
    paid = call(app, "transfer", ada, bob, 50)["transaction_id"]
    call(app, "reverse", paid, 20)
    legs = call(app, "post_legs", [ada, bob, eve], [-30, 10, 20])["transaction_id"]
    call(app, "reverse", legs)
    credited = call(app, "credit", ada, 40)["transaction_id"]
    call(app, "reverse", credited)
    failed = call(app, "transfer", eve, bob, 9999)["transaction_id"]
    call(app, "set_limit", bob, "day", 5)
    assert (ada, bob, eve, paid, legs, failed) == (2, 3, 4, 4, 6, 10)
    assert violations(app) == []
    owner.execute(tampering.encode())
    found = {(row["violation"], row["account_id"], row["transaction_id"]) for row in verify(app)}
    if verify is not violations:
        # The legs that are left of a transaction do not sum to zero, though all entries of the ledger do.
        found -= {("currency_does_not_sum_to_zero", None, legs)}
    assert found == expected
