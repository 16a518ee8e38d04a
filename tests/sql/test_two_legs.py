"""Two legs do what a transfer does, though another engine posts them."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Bank
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


def test_two_legs_are_equal_to_a_transfer(bank: Bank) -> None:
    with bank.connect() as app, bank.connect("bank_owner") as owner:

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

        @settings(
            max_examples=100, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck)
        )
        @given(steps=steps, limit=st.sampled_from(["day", "maximum_balance", "transaction", "minimum_balance", None]))
        def compare(steps: list[tuple[int, int, int]], limit: str | None) -> None:
            outcomes = []
            for legs in (True, False):
                ledger_id = call(owner, "create_ledger", "Legs")["ledger_id"]
                accounts = [
                    open_account(app, balance, currency, overdraft_limit_minor=overdraft, ledger_id=ledger_id)
                    for currency, overdraft, balance in
                    [("EUR", 0, 300), ("EUR", 100, 0), ("EUR", None, 0), ("EUR", 0, 50), ("JPY", 50, 0), ("EUR", 0, 90)]
                ]  # fmt: skip
                numbers = {account_id: number for number, account_id in enumerate(accounts)}
                call(app, "freeze_account", accounts[3], credits=False, ledger_id=ledger_id)
                call(app, "stripe_account", accounts[2], 2, ledger_id)
                call(app, "authorise", accounts[5], 40, ledger_id=ledger_id)
                for number in (0, 1) if limit else ():
                    most = {"minimum_balance": -30, "maximum_balance": 330}.get(limit or "", 120)
                    call(app, "set_limit", accounts[number], limit, most, ledger_id=ledger_id)
                rows = []
                for debit, credit, amount in steps:
                    d, c = accounts[debit], accounts[credit]
                    if legs:
                        rows.append(call(app, "post_legs", [d, c], [-amount, amount], ledger_id=ledger_id))
                    else:
                        rows.append(call(app, "transfer", d, c, amount, ledger_id=ledger_id))
                left = app.execute(
                    "select balance_minor, held_minor, version from bank.account_detail where ledger_id = %s"
                    " order by account_id",
                    [ledger_id],
                ).fetchall()
                used = owner.execute(
                    "select used_minor, used_count from bank.account_limit where ledger_id = %s order by account_id",
                    [ledger_id],
                ).fetchall()
                assert app.execute("select * from bank.verify(%s)", [ledger_id]).fetchall() == []
                outcomes.append(([outcome(row, numbers) for row in rows], left, used))
            assert outcomes[0] == outcomes[1]

        compare()
