"""A bank of the previous release, made by that release itself, is upgraded: every retry answers as it did."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.embedded import EmbeddedPostgres
from service.installation import ROOT
from service.migrate import migrate
from tests.conftest import Bank, Connection
from tests.helpers import Row, call, violations
from tests.migrations.test_migrate import new_database

__all__ = ["new_database"]

# From the next release on, the one before it.
PREDECESSOR = "ca9da77"
MIGRATE = "import sys; from service.migrate import migrate; migrate(sys.argv[1])"

# Each under its own key, so that it can be asked again. Accounts 2 and 3 are in EUR, 5 in JPY, 7 in ledger 2. {hold}
# stands for the transaction_id that the call of this name has got.
CALLS: dict[str, str] = {
    "credit": "credit(2, 1000, 'credit')",
    "credit of the other": "credit(3, 1000, 'credit of the other')",
    "debit": "debit(2, 10, null, 'debit', 'Rent')",
    "debit to a beneficiary": "debit(2, 10, 3, 'debit to a beneficiary')",
    "transfer": "transfer(2, 3, 100, 'transfer', metadata => '{\"a\": 1}')",
    "rejected transfer": "transfer(2, 3, 10000000, 'rejected transfer')",
    "batch": "post_transfers(array[2, 2], array[3, 3], array[1, 9999999], array['batch', 'batch 2'])",
    "legs": "post_legs(array[2, 3], array[-5, 5], '[{\"account_id\": 2, \"version\": 5}]', 'legs')",
    "failed condition": "post_legs(array[2, 3], array[-5, 5], '[{\"account_id\": 2, \"version\": 1}]', 'failed')",
    "exchange": "exchange(2, 5, 10, 163.25, 'exchange')",
    "sweep": "sweep(3, 2, 50, 'sweep')",
    "hold": "authorise(2, 100, 3, 20, '2100-01-01 00:00:00+00', 'hold')",
    "rejected hold": "authorise(2, 10000000, 3, 20, null, 'rejected hold')",
    "capture": "capture({hold}, 30, false, 'capture')",
    "capture of the rest": "capture({hold}, null, true, 'capture of the rest')",
    "void of what is captured": "void({hold}, 'void of what is captured')",
    "reversal": "reverse({transfer}, 40, idempotency_key => 'reversal')",
    "forced reversal": "reverse({transfer}, null, true, 'Eve', 'forced reversal')",
    "reversal of legs": "reverse({legs}, idempotency_key => 'reversal of legs')",
    "to a ledger": "transfer_to_ledger(2, 2, 7, 5, 'to a ledger')",
    "rejected to a ledger": "transfer_to_ledger(2, 2, 7, 10000000, 'rejected to a ledger')",
}


@pytest.fixture
def predecessor(tmp_path: Path) -> Path:
    """A checkout of the previous release."""
    archive = subprocess.run(["git", "archive", PREDECESSOR], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"this checkout does not have the commit {PREDECESSOR} of the previous release")
    subprocess.run(["tar", "-x", "-C", tmp_path], input=archive.stdout, check=True)
    return tmp_path


@pytest.fixture
def old_bank(server: EmbeddedPostgres, template: str, new_database: Callable[..., str], predecessor: Path) -> Bank:
    """A bank that the previous release has installed."""
    bank = Bank(server, new_database())
    subprocess.run([sys.executable, "-c", MIGRATE, bank.owner_url], cwd=predecessor, check=True)
    return bank


def made(app: Connection) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for name, text in CALLS.items():
        called = text
        for earlier, (first, *_) in rows.items():
            called = called.replace(f"{{{earlier}}}", str(first["transaction_id"]))
        rows[name] = app.execute(f"select * from bank.{called}".encode()).fetchall()
    return rows


def test_a_bank_of_the_previous_release_is_upgraded_and_every_retry_answers_as_it_did(old_bank: Bank) -> None:
    with old_bank.connect() as app, old_bank.connect("bank_owner") as owner:
        owner.execute("select bank.create_ledger('Branch')")
        for currency, ledger_id in (("EUR", 1), ("EUR", 1), ("JPY", 1), ("EUR", 2)):
            app.execute("select bank.open_account('Ada', %s, ledger_id => %s)", [currency, ledger_id])
        app.execute("select bank.set_limit(2, 'day', 1000000, 100)")
        before = made(app)
        assert violations(app) == []
        balances = [call(app, "balance", account_id) for account_id in (2, 3, 5)]
    failed = {name for name, rows in before.items() if rows[0]["failure_code"]}
    assert failed == {
        *("rejected transfer", "failed condition", "rejected hold", "void of what is captured"),
        "rejected to a ledger",
    }

    migrate(old_bank.owner_url)
    with old_bank.connect() as app:
        for name, rows in made(app).items():
            assert rows == [{**row, "replayed": True} for row in before[name]], name
        for balance in balances:
            now = call(app, "balance", balance["account_id"])
            assert now == {**balance, "as_of": now["as_of"]}
        reversed_in_full = before["transfer"][0]["transaction_id"]
        assert call(app, "reverse", reversed_in_full, 1)["failure_code"] == "reversal_exceeds_original"
        assert violations(app) == []
