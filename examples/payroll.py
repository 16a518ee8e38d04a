"""Payroll: the salaries of 500 people in one call, all or none.

One bad account stops all of them, and the answer says which it was; the call is repeated without it.
"""

import os
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

bank = psycopg.connect(os.environ["DATABASE_URL"], row_factory=dict_row, autocommit=True)


def rows(query: LiteralString, *arguments: object) -> list[dict[str, Any]]:
    """Run a statement and return its rows."""
    return bank.execute(query, arguments).fetchall()


def pay(run: int, salaries: dict[int, int]) -> list[dict[str, Any]]:
    """Pay all salaries or none. A run that is repeated pays nothing twice: its keys are the same."""
    return rows(
        "select * from bank.post_transfers(%s, %s, %s, %s, atomic => true)",
        [company] * len(salaries),
        list(salaries),
        list(salaries.values()),
        [f"python-payroll-{run}-{employee}" for employee in salaries],
    )


company = rows("select * from bank.open_account('Company', 'EUR')")[0]["account_id"]
rows("select * from bank.credit(%s, 200000000, 'python-payroll-turnover')", company)
employees = [
    row["account_id"]
    for row in rows("select a.* from generate_series(1, 500) as n, bank.open_account('Employee ' || n, 'EUR') as a")
]
salaries = {employee: 300_000 + 100 * number for number, employee in enumerate(employees)}
rows("select * from bank.close_account(%s, 'left the company')", employees[41])

postings = pay(1, salaries)
stopped_by = postings[0]["failure_detail"]["stopped_by"]
print("first run:", sum(posting["transaction_status"] == "success" for posting in postings), "paid")
print(f"item {stopped_by} stopped it:", postings[stopped_by - 1]["failure_code"])

del salaries[employees[stopped_by - 1]]
for attempt in ("second run", "second run again"):
    postings = pay(2, salaries)
    replayed = sum(posting["replayed"] for posting in postings)
    left = postings[-1]["debit_balance_after_minor"]
    print(f"{attempt}: {len(postings)} paid, {replayed} of them before, {left} left")

left = rows("select balance_minor from bank.balance(%s)", company)[0]["balance_minor"]
print("paid in all:", 200_000_000 - left, "expected:", sum(salaries.values()))
