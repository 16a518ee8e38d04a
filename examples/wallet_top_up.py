"""A wallet that is topped up from a card company's messages, which come late, twice and in any order.

The number of the card payment is the idempotency key, so each is credited once whatever comes. Where the wallet's limit
stops one, it is refused for good, and the card company is told why.
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


def top_up(payment: str, amount_minor: int) -> None:
    """Credit a card payment, once."""
    try:
        posting = call("select * from bank.credit(%s, %s, %s)", wallet, amount_minor, payment)
    except psycopg.DatabaseError as error:
        if error.sqlstate != "TLKEY":  # idempotency_key_reused
            raise
        print(f"{payment} {amount_minor}: {error.diag.message_primary}, somebody is to look at it")
        return
    outcome = posting["failure_code"] or f"balance {posting['credit_balance_after_minor']}"
    print(f"{payment} {amount_minor}: {outcome}{', known already' if posting['replayed'] else ''}")


wallet = call("select * from bank.open_account('Ada Lovelace', 'EUR')")["account_id"]
call("select * from bank.set_limit(%s, 'maximum_balance', 25000, changed_by => 'onboarding')", wallet)

top_up("payment-1", 10000)
top_up("payment-2", 5000)
top_up("payment-1", 10000)
top_up("payment-3", 20000)
top_up("payment-2", 7000)
print("in the wallet:", call("select * from bank.balance(%s)", wallet)["balance_minor"])
