"""A card at a petrol station: an authorisation for more than the tank holds, and a capture of what was filled in.

A rejection is a row, not an exception: it is recorded with its reason, and the caller looks at transaction_status.
"""

import os
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

bank = psycopg.connect(os.environ["DATABASE_URL"], row_factory=dict_row, autocommit=True)


def call(query: LiteralString, *arguments: object) -> dict[str, Any]:
    """Call a function that returns one row."""
    [row] = bank.execute(query, arguments).fetchall()
    return row


def show(what: str, posting: dict[str, Any]) -> None:
    """Print what became of a posting, and what the driver has."""
    outcome = posting["failure_code"] or posting["transaction_status"]
    balance = call("select * from bank.balance(%s)", driver)
    print(f"{what}: {outcome}; {balance['available_balance_minor']} of {balance['balance_minor']} available")


driver = call("select * from bank.open_account('Driver', 'EUR')")["account_id"]
station = call("select * from bank.open_account('Petrol station', 'EUR')")["account_id"]
show("salary", call("select * from bank.credit(%s, 25000, 'petrol-salary')", driver))

pump = "select * from bank.authorise(%s, %s, %s, expires_at => now() + interval '1 hour', idempotency_key => %s)"
first = call(pump, driver, 15000, station, "pump-1")
show("150.00 authorised", first)
show("150.00 more authorised", call(pump, driver, 15000, station, "pump-2"))

filled = "select * from bank.capture(%s, %s, final => true, idempotency_key => %s)"
show("160.00 captured", call(filled, first["transaction_id"], 16000, "pump-1-wrong"))
show("72.50 captured", call(filled, first["transaction_id"], 7250, "pump-1-filled"))
again = call(filled, first["transaction_id"], 7250, "pump-1-filled")
show(f"72.50 captured again (replayed: {again['replayed']})", again)
show("5.00 captured later", call(filled, first["transaction_id"], 500, "pump-1-late"))
