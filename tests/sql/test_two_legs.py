"""Two legs do what a transfer does, though another engine posts them."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Bank, Connection
from tests.helpers import Row, call, open_account

MAX = 2**53 - 1

steps = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.one_of(st.integers(1, 150), st.sampled_from([MAX, MAX - 1])))
    .filter(lambda step: step[0] != step[1]),
    min_size=1,
    max_size=20,
)  # fmt: skip
OUTCOME = (
    "transaction_status", "failure_code", "failure_detail", "amount_minor", "currency", "debit_account_id",
    "credit_account_id", "debit_balance_after_minor", "credit_balance_after_minor", "debit_version", "credit_version",
    "replayed",
)  # fmt: skip


LIMITS = ("day", "maximum_balance", "transaction", "minimum_balance", None)


def open_accounts(app: Connection, ledger_id: int, limit: str | None) -> list[int]:
    """Open accounts of many kinds: frozen, striped, with a hold, with an overdraft, in another currency."""
    accounts = [
        open_account(app, balance, currency, overdraft_limit_minor=overdraft, ledger_id=ledger_id)
        for currency, overdraft, balance in
        [("EUR", 0, 300), ("EUR", 100, 0), ("EUR", None, 0), ("EUR", 0, 50), ("JPY", 50, 0), ("EUR", 0, 90)]
    ]  # fmt: skip
    call(app, "freeze_account", accounts[3], credits=False, ledger_id=ledger_id)
    call(app, "stripe_account", accounts[2], 2, ledger_id)
    for number, held in ((0, 60), (5, 40)):
        call(app, "authorise", accounts[number], held, ledger_id=ledger_id)
    for number in (0, 1) if limit else ():
        most = {"minimum_balance": -30, "maximum_balance": 330}.get(limit or "", 120)
        call(app, "set_limit", accounts[number], limit, most, ledger_id=ledger_id)
    return accounts


def outcome(posted: Row, numbers: dict[int, int]) -> Row:
    kept = {name: posted[name] for name in OUTCOME}
    for side in ("debit_account_id", "credit_account_id"):
        kept[side] = numbers[kept[side]]
    detail = dict(kept["failure_detail"] or {})
    if posted["failure_code"] == "currency_mismatch":
        detail = {}  # a transfer names both currencies, legs the first that does not sum to zero
    if "account_id" in detail:
        detail["account_id"] = numbers[detail["account_id"]]
    return {**kept, "failure_detail": detail}


def test_two_legs_are_equal_to_a_transfer(bank: Bank) -> None:
    """Each example begins with the same accounts of two ledgers, and is rolled back."""
    with bank.connect() as app, bank.connect("bank_owner") as owner:
        opened = {}
        for limit in LIMITS:
            for legs in (True, False):
                ledger_id = call(owner, "create_ledger", "Legs")["ledger_id"]
                opened[limit, legs] = ledger_id, open_accounts(app, ledger_id, limit)

        def run(steps: list[tuple[int, int, int]], limit: str | None, *, legs: bool) -> tuple[list[Row], ...]:
            ledger_id, accounts = opened[limit, legs]
            numbers = {account_id: number for number, account_id in enumerate(accounts)}
            rows = []
            with app.transaction(force_rollback=True):
                for debit, credit, amount in steps:
                    d, c = accounts[debit], accounts[credit]
                    if legs:
                        posted = call(app, "post_legs", [d, c], [-amount, amount], ledger_id=ledger_id)
                    else:
                        posted = call(app, "transfer", d, c, amount, ledger_id=ledger_id)
                    rows.append(outcome(posted, numbers))
                left = app.execute(
                    "select balance_minor, held_minor, version from bank.account_detail where ledger_id = %s"
                    " order by account_id",
                    [ledger_id],
                ).fetchall()
                used = app.execute(
                    "select limit_kind, used_minor, used_count from bank.limit_detail where ledger_id = %s"
                    " order by account_id",
                    [ledger_id],
                ).fetchall()
            return rows, left, used

        @settings(
            max_examples=60, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck)
        )
        @given(steps=steps, limit=st.sampled_from(LIMITS))
        def compare(steps: list[tuple[int, int, int]], limit: str | None) -> None:
            assert run(steps, limit, legs=True) == run(steps, limit, legs=False)

        compare()
