"""An order and its payment in one transaction: both or neither, and the same code may run twice.

The order is a row in a table of the caller's own, the payment is bank.transfer. bank.require_success turns a rejection
into an error, which rolls back both. The order's number is the idempotency key.
"""

import json
import os
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

bank = psycopg.connect(os.environ["DATABASE_URL"], row_factory=dict_row, autocommit=True)


def rows(query: LiteralString, *arguments: object) -> list[dict[str, Any]]:
    """Run a statement and return its rows."""
    return bank.execute(query, arguments).fetchall()


def order(number: int, item: str, amount_minor: int) -> None:
    """Order and pay, or do neither."""
    try:
        with bank.transaction():
            [payment] = rows(
                "select * from bank.require_success(bank.transfer(%s, %s, %s, %s))",
                *(ada, shop, amount_minor, f"python-order-{number}"),
            )
            bank.execute(
                "insert into orders values (%s, %s, %s) on conflict do nothing",
                [number, item, payment["transaction_id"]],
            )
        paid = "paid before" if payment["replayed"] else "paid"
        print(f"{item}: {paid}, {payment['debit_balance_after_minor']} left")
    except psycopg.DatabaseError as error:
        if error.sqlstate != "TLREJ":  # posting_rejected; the code of the rejection is among the facts
            raise
        facts = json.loads(error.diag.message_detail or "{}")
        print(f"{item}: not ordered, {facts['failure_code']}, {facts['available_minor']} of {facts['needed_minor']}")


bank.execute("create temporary table orders (order_id bigint primary key, item text, payment_id bigint)")
ada, shop = (rows("select * from bank.open_account(%s, 'EUR')", name)[0]["account_id"] for name in ("Ada", "Shop"))
rows("select * from bank.credit(%s, 10000, 'python-order-salary')", ada)

order(1, "Notes on the Analytical Engine", 6500)
order(2, "Sketch of the Analytical Engine", 5000)
order(1, "Notes on the Analytical Engine", 6500)  # a double click

print("orders:", [row["item"] for row in rows("select item from orders order by order_id")])
print("balance of the shop:", rows("select balance_minor from bank.balance(%s)", shop)[0]["balance_minor"])
