"""The import: every row once and in order, bad ones by line number, whatever happens on the way."""

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from service import http_client, importer
from service.import_file import BadRow, ImportFile, ImportFileError, Row
from tests.cli.conftest import Service, local_environment, run_command

BERKA = Path(__file__).resolve().parents[3] / "shared/data/berka/transactions-1993.csv"
HEADER = "account_id,transaction_type,amount_minor,idempotency_key,balance_after_minor"

_numbers = itertools.count(1)
Import = Callable[..., Result]


@pytest.fixture
def prefix() -> str:
    """What makes the accounts and keys of a test its own, in the bank that the module shares."""
    return f"t{next(_numbers)}-"


@pytest.fixture
def import_rows(service: Service, tmp_path: Path, prefix: str) -> Import:
    """Import lines that follow HEADER; account ids and keys get the test's prefix."""

    def import_rows(*lines: str, options: tuple[str, ...] = (), header: str = HEADER) -> Result:
        file = tmp_path / "rows.csv"
        file.write_text("\n".join([header, *(line and prefix + line for line in lines), ""]))
        arguments = ("import", str(file), "--url", service.url, "--key", service.key)
        return run_command((*arguments, "--key-prefix", prefix, *options), {})

    return import_rows


def ledger(service: Service, prefix: str) -> dict[str, tuple[int, int, str]]:
    """Balance, number of entries and currency of each account of a test."""
    with service.bank.connect() as connection:
        rows = connection.execute(
            "select external_id, balance_minor, version, currency from bank.account_detail where external_id like %s",
            [f"{prefix}%"],
        ).fetchall()
    found = {}
    for row in rows:
        balance, version, currency = row["balance_minor"], row["version"], row["currency"]
        assert isinstance(balance, int)
        assert isinstance(version, int)
        found[str(row["external_id"]).removeprefix(prefix)] = (balance, version, str(currency))
    return found


def counts(result: Result) -> dict[str, str]:
    """The lines of the summary."""
    return dict(re.split(" {2,}", line.strip(), maxsplit=1) for line in result.stdout.splitlines()[1:])


# ---- what is posted ----------------------------------------------------------------------------------------


def test_rows_are_posted_once_and_replayed_by_a_second_run(service: Service, import_rows: Import, prefix: str) -> None:
    rows = ("a,credit,1000,1,1000", "b,credit,500,2,500", "a,debit,300,3,700")
    first = import_rows(*rows)
    assert first.exit_code == 0, first.output
    assert counts(first)["posted"] == "3"
    assert counts(first)["balances"] == "3 compared, 0 mismatches"
    assert counts(first)["accounts"] == "2 opened, 0 found"
    before = ledger(service, prefix)
    assert before == {"a": (700, 2, "EUR"), "b": (500, 1, "EUR")}
    second = import_rows(*rows)
    assert second.exit_code == 0
    assert (counts(second)["posted"], counts(second)["replayed"]) == ("0", "3")
    assert counts(second)["balances"] == "3 compared, 0 mismatches"
    assert counts(second)["accounts"] == "0 opened, 2 found"
    assert ledger(service, prefix) == before


def test_rows_of_an_account_are_posted_in_the_order_of_the_file(
    service: Service, import_rows: Import, prefix: str
) -> None:
    names = [f"account{number}" for number in range(20)]
    lines = []
    for turn in range(20):  # each debit takes all that the credit before it brought
        kind, balance = ("debit", 0) if turn % 2 else ("credit", 100)
        lines += [f"{name},{kind},100,{name}-{turn},{balance}" for name in names]
    result = import_rows(*lines, options=("--connections", "16"))
    assert result.exit_code == 0, result.output
    assert counts(result)["posted"] == "400"
    assert set(ledger(service, prefix).values()) == {(0, 20, "EUR")}


def test_an_account_gets_the_overdraft_that_its_expected_balances_need(import_rows: Import) -> None:
    rows = ("a,credit,100,1,100", "a,debit,300,2,-200", "a,debit,50,3,-250", "b,debit,1,4,")
    result = import_rows(*rows)
    assert counts(result)["posted"] == "3"
    assert counts(result)["rejected"] == "1 (insufficient_funds 1)"  # b, of whom the file expects nothing
    assert "line 5: insufficient_funds" in result.stderr


def test_a_given_overdraft_limit_is_that_of_every_account_opened(import_rows: Import) -> None:
    options = ("--overdraft-limit-minor", "150")
    result = import_rows("a,debit,100,1,-100", "a,debit,100,2,-200", options=options)
    assert counts(result)["rejected"] == "1 (insufficient_funds 1)"


def test_the_currency_is_the_rows_or_else_the_option(service: Service, import_rows: Import, prefix: str) -> None:
    header = "account_id,transaction_type,amount_minor,source_trans_id,currency,holder_name,description"
    rows = ("a,credit,1,1,JPY,Ada Lovelace,first", "b,credit,1,2,,,", "a,credit,1,3,USD,,")
    result = import_rows(*rows, options=("--currency", "CZK"), header=header)
    assert ledger(service, prefix) == {"a": (1, 1, "JPY"), "b": (1, 1, "CZK")}
    assert f"line 4: account {prefix}a is in JPY, this row in USD" in result.stderr
    with service.bank.connect() as app:
        posted = app.execute("select description from bank.posting where idempotency_key = %s", [f"{prefix}1"])
        assert posted.fetchone() == {"description": "first"}


def test_an_account_that_has_another_currency_takes_no_row(service: Service, import_rows: Import, prefix: str) -> None:
    import_rows("a,credit,1,1,1")
    result = import_rows("a,credit,1,2,2", options=("--currency", "JPY"))
    assert result.exit_code == 1
    assert ledger(service, prefix) == {"a": (1, 1, "EUR")}


def test_an_account_that_was_opened_without_a_key_or_with_another_overdraft_is_found(
    service: Service, import_rows: Import, prefix: str
) -> None:
    with service.bank.connect() as app:
        app.execute("select bank.open_account('Ada', 'EUR', external_id => %s)", [f"{prefix}a"])
    first = import_rows("a,credit,100,1,100", "b,credit,100,2,100")
    assert counts(first)["accounts"] == "1 opened, 1 found"
    again = import_rows("a,credit,100,3,200", "b,credit,100,4,200", options=("--overdraft-limit-minor", "7"))
    assert counts(again)["accounts"] == "0 opened, 2 found"
    assert ledger(service, prefix) == {"a": (200, 2, "EUR"), "b": (200, 2, "EUR")}


def test_an_account_whose_opening_got_no_answer_is_opened_once(
    service: Service, import_rows: Import, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, openings = http_client.Connection.request, list[int]()

    async def lose_the_first_answer(*arguments: Any) -> Any:
        response = await request(*arguments)
        if arguments[2] == "/v1/accounts":
            openings.append(response.status)
            if len(openings) == 1:
                raise http_client.ConnectionFailedError("lost")
        return response

    monkeypatch.setattr(importer, "RETRY_SECONDS_FIRST", 0.01)
    monkeypatch.setattr(http_client.Connection, "request", lose_the_first_answer)
    result = import_rows("a,credit,100,1,100")
    assert result.exit_code == 0, result.output
    assert openings == [201, 200]
    assert ledger(service, prefix) == {"a": (100, 1, "EUR")}


# ---- what is reported --------------------------------------------------------------------------------------


def test_bad_rows_are_reported_by_line_and_the_rest_goes_on(service: Service, import_rows: Import, prefix: str) -> None:
    rows = (
        "a,credit,1000,1,1000",
        "a,credit,12.50,2,",
        "",
        "a,give,100,3,",
        "a,credit,100,4",
        "a,credit,-5,5,",
        "a,credit,1e3,6,",
        "a,credit,100,,",
        "a,debit,400,8,600",
    )
    result = import_rows(*rows)
    assert result.exit_code == 1
    assert (counts(result)["posted"], counts(result)["bad rows"]) == ("2", "6")
    assert result.stderr.splitlines() == [
        "line 3: amount_minor '12.50' is not a whole number of minor units",
        "line 5: transaction_type 'give' is neither credit nor debit",
        "line 6: has 4 columns instead of 5",
        f"line 7: amount_minor -5 is not from 1 to {2**53 - 1}",
        "line 8: amount_minor '1e3' is not a whole number of minor units",
        "line 9: idempotency_key is missing",
    ]
    assert ledger(service, prefix) == {"a": (600, 2, "EUR")}


def test_a_rejected_row_is_reported_with_its_code_and_the_rest_goes_on(import_rows: Import) -> None:
    rows = ("a,credit,100,1,", "a,debit,500,2,", "a,debit,60,3,", "a,credit,60,1,")
    result = import_rows(*rows)
    assert result.exit_code == 1
    assert counts(result)["posted"] == "2"
    assert counts(result)["rejected"] == "2 (insufficient_funds 1, idempotency_key_reused 1)"
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == ["line 3", "line 5"]


def test_an_unknown_currency_fails_each_row_of_the_account(import_rows: Import) -> None:
    result = import_rows("a,credit,100,1,", "a,debit,50,2,", options=("--currency", "EURO"))
    assert result.exit_code == 1
    assert counts(result)["rejected"] == "2 (unknown_currency 2)"


def test_a_balance_other_than_expected_is_reported(import_rows: Import) -> None:
    result = import_rows("a,credit,100,1,100", "a,credit,1,2,102")
    assert result.exit_code == 1
    assert counts(result)["posted"] == "2"
    assert counts(result)["balances"] == "2 compared, 1 mismatches"
    assert result.stderr == "line 3: balance is 101 after it, expected 102\n"


def test_many_failures_are_cut_short_with_their_total(import_rows: Import) -> None:
    result = import_rows(*(f"a,credit,0,{number}," for number in range(50)))
    assert len(result.stderr.splitlines()) == 21
    assert result.stderr.endswith("… and 30 more lines, 50 in all\n")


@pytest.mark.parametrize("failing", ["a,debit,500,2,", "a,credit,x,2,", "a,credit,1,2,999"])
def test_stop_on_error_stops_at_the_first_row_that_fails(import_rows: Import, failing: str) -> None:
    later = [f"a,credit,1,{number}," for number in range(3, 40)]
    result = import_rows("a,credit,100,1,", failing, *later, options=("--stop-on-error",))
    assert result.exit_code == 1
    assert counts(result)["posted"] == ("2" if failing.endswith("999") else "1")
    assert len(result.stderr.splitlines()) == 1


# ---- the file ----------------------------------------------------------------------------------------------


def read(path: Path, content: bytes) -> list[Row | BadRow]:
    path.write_bytes(content)
    return list(ImportFile(path, key_column=None, key_prefix="", currency="EUR").rows())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b",credit,1,1,", "account_id is missing"),
        (b"a" * 256 + b",credit,1,1,", "account_id is longer than 255 characters"),
        (b"a,,1,1,", "transaction_type is missing"),
        (b"a,credit,,1,", "amount_minor is missing"),
        (b"a,credit,0,1,", "is not from 1 to"),
        (b"a,credit,9007199254740992,1,", "is not from 1 to"),
        (b"a,credit,NaN,1,", "is not a whole number"),
        (b"a,credit,1_000,1,", "is not a whole number"),
        ("a,credit,٣,1,".encode(), "is not a whole number"),
        (b"a,credit,1.0,1,", "is not a whole number"),
        (b"a,credit,1,1,1.5", "balance_after_minor '1.5' is not a whole number"),
        ("a,credit,1,schlüssel,".encode(), "is not a key"),
        (b"a,credit,1," + b"1" * 256 + b",", "longer than 255"),
        (b"a,credit,1,1,1,1", "has 6 columns instead of 5"),
        (b"\xff\xfe,credit,1,1,", "is not valid UTF-8"),
        (b'"a"b,credit,1,1,', "is not valid CSV"),
    ],
)
def test_a_bad_row_says_why_and_leaves_its_neighbours_alone(tmp_path: Path, line: bytes, reason: str) -> None:
    good = b"a,credit,1,%d,"
    content = b"\n".join([HEADER.encode(), good % 1, line, good % 2])
    first, bad, last = read(tmp_path / "file.csv", content)
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert isinstance(bad, BadRow)
    assert (first.line, bad.line, last.line) == (2, 3, 4)
    assert reason in bad.reason


def test_a_quoted_line_break_counts_as_a_line(tmp_path: Path) -> None:
    header = b"account_id,description,transaction_type,amount_minor,idempotency_key\r\n"
    rows = read(tmp_path / "f.csv", header + b'a,"two\r\nlines",credit,1,1\r\na,,credit,x,2\r\n')
    assert [row.line for row in rows] == [2, 4]
    assert isinstance(rows[0], Row)
    assert rows[0].description == "two\r\nlines"


def test_a_quote_that_is_never_closed_is_a_bad_row(tmp_path: Path) -> None:
    (bad,) = read(tmp_path / "f.csv", HEADER.encode() + b'\n"a,credit,1,1,\na,credit,1,2,\n')
    assert isinstance(bad, BadRow)
    assert bad.reason.startswith("is not valid CSV (through line 3)")


def test_a_byte_order_mark_and_spaces_do_no_harm(tmp_path: Path) -> None:
    (row,) = read(tmp_path / "f.csv", b"\xef\xbb\xbf" + HEADER.encode() + b"\n a , Credit , 1 , k , -7 \n")
    assert isinstance(row, Row)
    assert (row.account, row.transaction_type, row.key) == ("a", "credit", "k")
    assert row.expected_balance_minor == -7


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("", "has no column account_id, transaction_type, amount_minor"),
        ("account_id,transaction_type,idempotency_key", "has no column amount_minor"),
        ("account_id,transaction_type,amount_minor", "has no column idempotency_key or source_trans_id"),
        (HEADER + ",account_id", "has more than one column account_id"),
        ('"account_id', "has no column"),
    ],
)
def test_a_file_without_its_columns_is_refused_at_once(tmp_path: Path, header: str, reason: str) -> None:
    with pytest.raises(ImportFileError, match=reason):
        read(tmp_path / "f.csv", header.encode())


# ---- the service -------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One row."""
    path = tmp_path / "one.csv"
    path.write_text(HEADER + "\na,credit,100,1,100\n")
    return path


def test_a_key_that_is_not_valid_stops_the_import_in_one_line(service: Service, file: Path) -> None:
    result = run_command(("import", str(file), "--url", service.url, "--key", "pgt_no"), {})
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "POST /v1/accounts is refused" in result.stderr


def test_no_key_and_no_service_are_one_line_each(service: Service, file: Path, tmp_path: Path) -> None:
    home = {"PGTELLER_HOME": str(tmp_path)}
    no_key = run_command(("import", str(file), "--url", service.url), home)
    assert "no API key" in no_key.stderr
    no_service = run_command(("import", str(file), "--url", "http://127.0.0.1:1", "--key", "k"), home)
    assert "nothing answers at http://127.0.0.1:1" in no_service.stderr
    for result in (no_key, no_service):
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1


Answer = tuple[int, dict[str, object]]


@contextmanager
def service_that(answers: Iterator[Answer | None]) -> Iterator[tuple[str, list[str]]]:
    """A service whose postings are answered from a list, None for a broken connection; and the keys it saw."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(200, {})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/accounts":
                return self.answer(201, {"account_id": 2, "currency": "EUR"})
            keys.append(self.headers["Idempotency-Key"])
            answer = next(answers)
            if answer is None:
                self.close_connection = True
                return None
            return self.answer(*answer)

        def answer(self, status: int, document: dict[str, object]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", keys
        server.shutdown()
        thread.join()


def test_a_service_that_is_down_for_a_moment_is_asked_again_with_the_same_key(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "RETRY_SECONDS_FIRST", 0.01)
    unavailable: Answer = (503, {"code": "outcome_unknown"})
    posted: Answer = (201, {"credit_balance_after_minor": 100})
    with service_that(iter([unavailable, None, unavailable, posted])) as (url, keys):
        result = run_command(("import", str(file), "--url", url, "--key", "k"), {})
    assert result.exit_code == 0, result.output
    assert counts(result)["posted"] == "1"
    assert keys == ["import:1"] * 4


def test_a_service_that_stays_down_stops_the_import(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "RETRY_SECONDS_FIRST", 0.001)
    unavailable: Answer = (503, {"code": "database_unavailable", "detail": "no database"})
    with service_that(itertools.repeat(unavailable)) as (url, keys):
        result = run_command(("import", str(file), "--url", url, "--key", "k"), {})
    assert result.exit_code == 1
    assert result.stderr == "Error: gave up after 8 tries of POST /v1/accounts/2/credit: no database\n"
    assert len(keys) == 8


# ---- real transactions -------------------------------------------------------------------------------------


@pytest.mark.skipif(not BERKA.exists(), reason="the shared data is not here")
def test_a_year_of_a_real_bank_ends_in_the_balances_that_it_recorded(home: Path) -> None:
    """No options, and no service: the import runs one for the duration."""
    environment = local_environment(home)
    first = run_command(("import", str(BERKA)), environment)
    assert first.exit_code == 0, first.output
    assert counts(first)["posted"] == "28,205"
    assert counts(first)["balances"] == "28,205 compared, 0 mismatches"
    assert counts(first)["accounts"] == "1,139 opened, 0 found"
    second = run_command(("import", str(BERKA)), environment)
    assert second.exit_code == 0, second.output
    assert (counts(second)["posted"], counts(second)["replayed"]) == ("0", "28,205")
    assert run_command(("verify",), environment).stdout.endswith("No violations.\n")
