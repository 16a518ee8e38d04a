"""Exchange: two currencies, a rate, and what is cut off, all exact."""

from decimal import Context, Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Bank, Connection
from tests.helpers import Row, authorise, balance_of, call, call_all, count, open_account, raises, violations

MAX = 2**53 - 1
EXPONENTS = {"JPY": 0, "EUR": 2, "KWD": 3}
EXACT = Context(prec=2000)


def exact(amount: int, rate: str, debit: str, credit: str) -> tuple[int, Decimal]:
    """Return what is credited, and what is cut off of it."""
    product = EXACT.scaleb(EXACT.multiply(Decimal(amount), Decimal(rate)), EXPONENTS[credit] - EXPONENTS[debit])
    return int(product), EXACT.subtract(product, Decimal(int(product)))


def exchange(app: Connection, debit: int, credit: int, amount: object, rate: object, **named: object) -> Row:
    return call(app, "exchange", debit, credit, amount, rate, **named)


@pytest.fixture
def eur(app: Connection) -> int:
    return open_account(app, 1_000_000)


@pytest.fixture
def jpy(app: Connection) -> int:
    return open_account(app, currency="JPY")


def liquidity(owner: Connection, currency: str, ledger_id: int = 1) -> int:
    (row,) = owner.execute(
        "select account_id from bank.account where liquidity and currency = %s and ledger_id = %s",
        [currency, ledger_id],
    ).fetchall()
    account_id: int = row["account_id"]
    return account_id


def test_an_exchange_goes_through_the_liquidity_accounts(
    app: Connection, owner: Connection, eur: int, jpy: int
) -> None:
    posted = exchange(app, eur, jpy, 10_001, "163.25", description="Holiday")
    assert (posted["transaction_type"], posted["failure_code"]) == ("exchange", None)
    assert (posted["amount_minor"], posted["currency"]) == (10_001, "EUR")
    assert (posted["exchange_rate"], posted["exchange_residue_minor"]) == (Decimal("163.25"), Decimal("0.6325"))
    euros, yens = liquidity(owner, "EUR"), liquidity(owner, "JPY")
    assert [(leg["account_id"], leg["amount_minor"], leg["currency"]) for leg in posted["legs"]] == [
        (eur, -10_001, "EUR"), (jpy, 16_326, "JPY"), (euros, 10_001, "EUR"), (yens, -16_326, "JPY"),
    ]  # fmt: skip
    assert [balance_of(app, account_id) for account_id in (eur, euros, yens, jpy)] == [989_999, 10_001, -16_326, 16_326]
    assert call(app, "get_transaction", posted["transaction_id"]) == posted
    assert violations(app) == []


@pytest.mark.parametrize("debit", EXPONENTS)
@pytest.mark.parametrize("credit", EXPONENTS)
def test_every_exponent_is_exact(app: Connection, debit: str, credit: str) -> None:
    source, target = open_account(app, 12_345, debit), open_account(app, currency=credit)
    posted = exchange(app, source, target, 12_345, "1.23456789")
    if debit == credit:
        assert (posted["failure_code"], posted["failure_detail"]) == ("same_currency", {"currency": debit})
    else:
        credited, residue = exact(12_345, "1.23456789", debit, credit)
        assert (balance_of(app, target), posted["exchange_residue_minor"]) == (credited, residue)
    assert violations(app) == []


LONG = "0." + "9" * 60


@pytest.mark.parametrize(
    ("amount", "rate", "debit", "credit"),
    [
        (100, LONG, "EUR", "JPY"),
        (1000, LONG, "KWD", "JPY"),
        (1000, "1." + "9" * 200, "KWD", "EUR"),
        (1_000_000, "1e-3", "EUR", "KWD"),
        (1, "0.1", "JPY", "EUR"),
        (3, "0.333333333333333333333333333333333333", "JPY", "KWD"),
        (1, "999999999999.9999999999999999", "EUR", "KWD"),
        (100, f"{MAX}.999999999999999999", "EUR", "JPY"),
        (1, f"{MAX}.5", "JPY", "XAF"),
        (MAX, "1.00", "EUR", "USD"),
        (MAX, "0.0000000000000002", "EUR", "USD"),
        (123456789, "1." + "0" * 300 + "1", "EUR", "JPY"),
    ],
)
def test_what_is_credited_is_cut_off_and_the_residue_exact(
    app: Connection, amount: int, rate: str, debit: str, credit: str
) -> None:
    exponents = {**EXPONENTS, "USD": 2, "XAF": 0}
    source = open_account(app, amount, debit)
    posted = exchange(app, source, open_account(app, currency=credit), amount, rate)
    product = EXACT.scaleb(EXACT.multiply(Decimal(amount), Decimal(rate)), exponents[credit] - exponents[debit])
    (credited,) = [leg["amount_minor"] for leg in posted["legs"][1:2]]
    assert posted["failure_code"] is None if 1 <= product < MAX + 1 else "amount_too_small"
    if posted["failure_code"] is None:
        assert credited == int(product)
        assert posted["exchange_residue_minor"] == EXACT.subtract(product, Decimal(credited))
        assert 0 <= posted["exchange_residue_minor"] < 1
        assert posted["exchange_rate"] == Decimal(rate)
    assert violations(app) == []


@pytest.mark.parametrize(
    ("amount", "rate", "code"),
    [
        (1, "0.99999999999999999999", "amount_too_small"),
        (1, "1e-40", "amount_too_small"),
        (2, f"{MAX}", "balance_overflow"),
        (1, f"{MAX + 1}", "balance_overflow"),
        (1_000_000, "999999999999999999", "balance_overflow"),
    ],
)
def test_an_amount_that_nobody_can_have_is_rejected(
    app: Connection, owner: Connection, eur: int, *, amount: int, rate: str, code: str
) -> None:
    usd = open_account(app, currency="USD")
    entries = count(owner, "entry")
    rejected = exchange(app, eur, usd, amount, rate)
    assert rejected["failure_code"] == code
    assert rejected["failure_detail"] == {"rate": rate if "e" not in rate else "0." + "0" * 39 + "1",
                                          "amount_minor": amount}  # fmt: skip
    assert rejected["exchange_residue_minor"] is None
    assert count(owner, "entry") == entries
    assert violations(app) == []


@pytest.mark.parametrize("rate", ["0", "-1", "NaN", "Infinity", "-Infinity", "1e18", None])
def test_a_rate_is_a_number_above_zero(app: Connection, eur: int, jpy: int, rate: str | None) -> None:
    with raises("TLARG", "invalid_argument", "rate"):
        exchange(app, eur, jpy, 100, rate)
    assert balance_of(app, eur) == 1_000_000


def test_a_malformed_exchange_raises(app: Connection, eur: int, jpy: int) -> None:
    with raises("TLAMT", "invalid_amount", "amount_minor"):
        exchange(app, eur, jpy, "1.5", 0)
    for arguments, field in (((99, jpy), "debit_account_id"), ((eur, 99), "credit_account_id")):
        with raises("TLACC", "account_not_found", field):
            exchange(app, *arguments, 1, 1)
    with raises("TLARG", "invalid_argument", "credit_account_id"):
        call(app, "exchange", eur, None, 1, 1)
    with raises("TLARG", "invalid_argument", "description"):
        exchange(app, eur, jpy, 1, 1, description=" ")


def test_an_exchange_is_rejected_as_a_transfer_would_be(app: Connection, eur: int, jpy: int) -> None:
    authorise(app, eur, 999_000)
    rejected = exchange(app, eur, jpy, 1001, 160)
    assert (rejected["failure_code"], rejected["failure_detail"]["available_minor"]) == ("insufficient_funds", 1000)
    call(app, "set_limit", eur, "day", 500)
    call(app, "set_limit", jpy, "maximum_balance", 100)
    assert exchange(app, eur, jpy, 101, 100)["failure_code"] == "balance_above_maximum"
    assert exchange(app, eur, jpy, 501, "0.2")["failure_code"] == "day_amount_exceeded"
    assert exchange(app, eur, jpy, 500, "0.2")["failure_code"] is None
    (limit,) = call_all(app, "limits", eur)
    assert (limit["used_minor"], limit["used_count"]) == (500, 1)
    call(app, "freeze_account", jpy, debits=False)
    assert exchange(app, eur, jpy, 100, 1)["failure_detail"] == {"account_id": jpy}
    assert violations(app) == []


@pytest.mark.parametrize("amount", [10_001, 9_000_000])
def test_a_retry_may_write_the_rate_with_other_zeros(app: Connection, eur: int, jpy: int, amount: int) -> None:
    first = exchange(app, eur, jpy, amount, "163.250", idempotency_key="key")
    for rate in ("163.25", "163.2500000", "16325e-2"):
        assert exchange(app, eur, jpy, amount, rate, idempotency_key="key") == {**first, "replayed": True}
    assert violations(app) == []


@pytest.mark.parametrize("amount", [1, 10_001, 1_000_010])
def test_a_key_belongs_to_one_rate_though_the_same_comes_out(app: Connection, eur: int, jpy: int, amount: int) -> None:
    exchange(app, eur, jpy, amount, "163.25", idempotency_key="key")
    for rate in ("163.250000001", "163.249999999"):
        with raises("TLKEY", "idempotency_key_reused", "rate"):
            exchange(app, eur, jpy, amount, rate, idempotency_key="key")
    assert violations(app) == []


def test_a_custom_currency_is_exchanged_by_its_exponent(app: Connection, owner: Connection, eur: int) -> None:
    owner.execute("select bank.create_currency('POINTS', 0, 'Points'), bank.create_currency('WEI', 18, 'Wei')")
    points, wei = open_account(app, currency="POINTS"), open_account(app, currency="WEI")
    assert exchange(app, eur, points, 1999, "1")["legs"][1]["amount_minor"] == 19
    for debit, credit, amount, rate, shift in (
        (points, wei, 19, "0.000123456789012345678", 18),
        (wei, points, 1_000_000_007, "1234567890.123456789012345678901234567", -18),
    ):
        posted = exchange(app, debit, credit, amount, rate)
        product = EXACT.scaleb(EXACT.multiply(Decimal(amount), Decimal(rate)), shift)
        assert posted["legs"][1]["amount_minor"] == int(product) > 0
        assert posted["exchange_residue_minor"] == EXACT.subtract(product, Decimal(int(product)))
    assert violations(app) == []


def test_a_random_exchange_is_exact(bank: Bank) -> None:
    with bank.connect() as app:
        accounts = {
            currency: open_account(app, currency=currency, overdraft_limit_minor=None) for currency in EXPONENTS
        }

        @settings(
            max_examples=200, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck)
        )
        @given(
            amount=st.integers(1, 10**12),
            rate=st.decimals(min_value="1e-30", max_value="1e6", places=30, allow_nan=False).filter(
                lambda rate: rate > 0
            ),
            sides=st.permutations(list(EXPONENTS)),
        )
        def compare(amount: int, rate: Decimal, sides: list[str]) -> None:
            debit, credit = sides[:2]
            posted = exchange(app, accounts[debit], accounts[credit], amount, rate)
            credited, residue = exact(amount, str(rate), debit, credit)
            if posted["failure_code"] is None:
                assert (posted["legs"][1]["amount_minor"], posted["exchange_residue_minor"]) == (credited, residue)
            else:  # what the liquidity account gives is used up, or there is nothing to give
                assert posted["failure_code"] == ("amount_too_small" if credited < 1 else "balance_overflow")

        compare()
        assert violations(app) == []


@pytest.mark.parametrize(
    ("code", "exponent", "name", "field"),
    [
        ("EUR", 2, "Euro again", "currency"),
        ("points", 0, "Points", "currency"),
        ("PT", 0, "Points", "currency"),
        ("THIRTEENCHARS", 0, "Points", "currency"),
        (None, 0, "Points", "currency"),
        ("POINTS", -1, "Points", "exponent"),
        ("POINTS", 19, "Points", "exponent"),
        ("POINTS", None, "Points", "exponent"),
        ("POINTS", 0, " ", "name"),
        ("POINTS", 0, None, "name"),
    ],
)
def test_a_currency_of_ones_own_has_a_free_code_an_exponent_and_a_name(
    owner: Connection, code: str | None, exponent: int | None, name: str | None, field: str
) -> None:
    with raises("TLARG", "invalid_argument", field):
        call(owner, "create_currency", code, exponent, name)
