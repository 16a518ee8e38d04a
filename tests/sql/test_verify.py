"""verify() finds each kind of violation, and says where: rows are tampered with as the owner could."""

import pytest

from tests.conftest import Connection
from tests.helpers import WAY_IDS, WAYS, Way, call, open_account, violations


@pytest.fixture
def accounts(app: Connection) -> tuple[int, int]:
    """Two accounts with a transfer between them: transaction 3, version 2 of the first, 2 of the second."""
    ada, bob = open_account(app, 500), open_account(app, 500)
    call(app, "transfer", ada, bob, 100)
    call(app, "transfer", bob, ada, 9999)
    assert violations(app) == []
    return ada, bob


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize("verify", WAYS, ids=WAY_IDS)
@pytest.mark.parametrize(
    ("tampering", "expected"),
    [
        (
            "update bank.account set balance_minor = balance_minor + 1 where account_id = 2",
            {"account_differs_from_last_entry"},
        ),
        ("update bank.account set version = version + 1 where account_id = 2", {"account_differs_from_last_entry"}),
        ("update bank.account set last_entry_at = now() where account_id = 2", {"account_differs_from_last_entry"}),
        (
            "alter table bank.account drop constraint account_check;"
            "update bank.account set held_minor = 9999 where account_id = 2",
            {"limit_passed", "held_differs", "constraint_missing"},
        ),
        (
            "update bank.entry set amount_minor = amount_minor + 1 where account_id = 2 and version = 2",
            {
                "currency_does_not_sum_to_zero",
                "balance_chain_broken",
                "transaction_without_entry",
            },
        ),
        (
            "update bank.entry set balance_after_minor = 7 where account_id = 2 and version = 1",
            {"balance_chain_broken"},
        ),
        (
            "delete from bank.entry where account_id = 2 and version = 1",
            {"version_gap", "currency_does_not_sum_to_zero", "transaction_without_entry"},
        ),
        (
            "delete from bank.entry where account_id = 2 and version = 2",
            {"account_differs_from_last_entry", "currency_does_not_sum_to_zero", "transaction_without_entry"},
        ),
        (
            "update bank.entry set created_at = '-infinity' where account_id = 2 and version = 2",
            {"time_runs_back", "account_differs_from_last_entry", "transaction_without_entry"},
        ),
        ("delete from bank.transaction where transaction_id = 3", {"entry_without_transaction"}),
        (
            "update bank.transaction set amount_minor = 99 where transaction_id = 3",
            {"transaction_without_entry"},
        ),
        (
            "update bank.transaction set transaction_status = 'failure', failure_code = 'x', debit_version = null,"
            " credit_version = null where transaction_id = 3",
            {"entry_without_transaction"},
        ),
        ("update bank.transaction set currency = 'USD' where transaction_id = 3", {"currency_differs"}),
        (
            "update bank.transaction set credit_account_id = 99 where transaction_id = 4",
            {"account_missing"},
        ),
        (
            "insert into bank.entry values (1, 99, 1, 3, 5, 5, now())",
            {"entry_without_transaction", "account_missing"},
        ),
    ],
)
def test_tampering_is_found(
    app: Connection, owner: Connection, tampering: str, expected: set[str], verify: Way
) -> None:
    owner.execute(tampering.encode())
    found = verify(app)
    assert {row["violation"] for row in found} == expected
    assert {row["ledger_id"] for row in found if row["violation"] != "constraint_missing"} == {1}


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize("verify", WAYS, ids=WAY_IDS)
def test_a_violation_names_the_place(app: Connection, owner: Connection, verify: Way) -> None:
    owner.execute("update bank.entry set balance_after_minor = 7 where account_id = 2 and version = 1")
    first, second = sorted(verify(app), key=lambda row: int(row["version"]))
    assert (first["account_id"], first["version"]) == (2, 1)
    assert (second["account_id"], second["version"]) == (2, 2)
    assert first["detail"]["balance_after_minor"] == 7


def test_verify_of_one_ledger_is_silent_about_another(
    app: Connection, owner: Connection, accounts: tuple[int, int]
) -> None:
    other = call(owner, "create_ledger", "Other")["ledger_id"]
    owner.execute("update bank.account set version = 9 where account_id = 2")
    assert app.execute("select * from bank.verify(%s)", [other]).fetchall() == []
    assert len(app.execute("select * from bank.verify()").fetchall()) == 1
