"""All currencies of ISO 4217 with their exponents, from the iso4217 package.

Codes without a minor unit (gold, test codes, bond-market units) are left out: an amount in them has no exact meaning.
"""

from typing import Any

from iso4217 import Currency
from yoyo import step

__depends__ = {"0001.ledger"}


def load(connection: Any) -> None:
    """Insert every currency that has a minor unit."""
    rows = [(c.code, c.exponent, c.currency_name) for c in Currency if c.exponent is not None]
    with connection.cursor() as cursor:
        cursor.execute("set local role bank_owner")
        cursor.executemany("insert into bank.currency (currency, exponent, name) values (%s, %s, %s)", rows)


def unload(connection: Any) -> None:
    """Remove the currencies again; fails where one is in use."""
    with connection.cursor() as cursor:
        cursor.execute("set local role bank_owner")
        cursor.execute("delete from bank.currency")


step(load, unload)
