"""Times from the future: what counts as one, and who tells of it."""

import json

import pytest

from tests.conftest import Connection
from tests.helpers import call, open_account, violations


@pytest.fixture(autouse=True)
def accounts(app: Connection) -> None:
    """Accounts 2 and 3, credited by transactions 1 and 2."""
    open_account(app, 500)
    open_account(app, 500)


def tells(app: Connection) -> bool:
    row = app.execute("select bank.has_entries_from_the_future() as found").fetchone()
    assert row is not None
    found: bool = row["found"]
    return found


def move(owner: Connection, account_id: int, at: str) -> None:
    """Let the account's last entry have been made at this time, as a clock that leapt would have."""
    owner.execute(
        f"update bank.entry set created_at = {at} where account_id = {account_id}"
        " and version = (select version from bank.account where account_id = entry.account_id);"
        "update bank.account set last_entry_at = e.created_at from bank.entry as e"
        f" where account.account_id = {account_id}"
        " and e.account_id = account.account_id and e.version = account.version".encode()
    )


@pytest.mark.parametrize("ahead", ["0 seconds", "55 seconds"])
def test_a_clock_that_was_set_back_by_less_than_a_minute_is_no_fault(
    app: Connection, owner: Connection, ahead: str
) -> None:
    move(owner, 2, f"now() + interval '{ahead}'")
    assert violations(app) == []
    assert not tells(app)


@pytest.mark.parametrize(
    "at", ["now() + interval '65 seconds'", "'2096-01-01'::timestamptz", "'infinity'::timestamptz"]
)
def test_an_entry_from_the_future_is_told_with_its_place_and_time(app: Connection, owner: Connection, at: str) -> None:
    move(owner, 2, at)
    (violation,) = violations(app)
    place = {name: violation[name] for name in ("violation", "ledger_id", "account_id", "transaction_id", "version")}
    assert place == {
        "violation": "entry_from_the_future", "ledger_id": 1, "account_id": 2, "transaction_id": 1, "version": 1,
    }  # fmt: skip
    (row,) = owner.execute("select to_jsonb(created_at)::text as at from bank.entry where account_id = 2").fetchall()
    assert violation["detail"] == {"created_at": json.loads(row["at"])}
    assert tells(app)


def test_a_failed_transaction_from_the_future_is_told_although_it_has_no_entry(
    app: Connection, owner: Connection
) -> None:
    failed = call(app, "transfer", 2, 3, 9999)["transaction_id"]
    owner.execute("update bank.transaction set created_at = '2096-01-01' where transaction_id = %s", [failed])
    (violation,) = violations(app)
    assert (violation["violation"], violation["account_id"]) == ("transaction_from_the_future", 2)
    assert (violation["transaction_id"], violation["version"]) == (failed, None)
    assert violation["detail"]["created_at"].startswith("2096-01-01")
    assert not tells(app)


def test_a_violation_of_a_stripe_from_the_future_names_account_and_stripe(app: Connection, owner: Connection) -> None:
    owner.execute("update bank.entry set created_at = '2096-01-01' where transaction_id = 2 and account_id > 1000")
    owner.execute("update bank.account set last_entry_at = '2096-01-01' where account_id > 1000 and version > 0")
    violation = next(row for row in violations(app) if row["violation"] == "entry_from_the_future")
    assert violation["account_id"] == 1
    assert "stripe" in violation["detail"]


def test_an_entry_may_be_later_than_its_transaction_but_not_earlier(app: Connection, owner: Connection) -> None:
    move(owner, 2, "now() + interval '30 seconds'")
    assert violations(app) == []
    owner.execute("update bank.transaction set created_at = now() + interval '40 seconds' where transaction_id = 1")
    assert {row["violation"] for row in violations(app)} == {"transaction_without_entry"}


def test_the_index_answers_without_reading_the_entries(app: Connection, owner: Connection) -> None:
    """All ranges are summarised, so that none is read."""
    owner.execute(
        "insert into bank.entry select 9, 1, n, n, 1, n, now() from generate_series(1, 40000) as n;"
        "select brin_summarize_new_values('bank.entry_created_at'); set enable_seqscan = off"
    )
    (row,) = owner.execute(
        "explain (analyze, buffers, format json)"
        " select from bank.entry where created_at > statement_timestamp() + bank._clock_tolerance()"
    ).fetchall()
    plan = row["QUERY PLAN"][0]["Plan"]
    pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    (size,) = owner.execute("select pg_relation_size('bank.entry') / 8192 as pages").fetchall()
    assert size["pages"] > 300
    assert pages < 10
