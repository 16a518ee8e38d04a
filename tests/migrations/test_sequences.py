"""Sequences that are behind the ids that exist, as after logical replication: verify() tells, migrate mends."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.migrate import migrate
from tests.concurrency.conftest import Sessions, sessions
from tests.conftest import Bank, Connection
from tests.helpers import Row, call, open_account, violations

__all__ = ["sessions"]


@pytest.fixture
def isolation() -> str:
    """Sequences know no isolation."""
    return "read committed"


SEQUENCES = {
    "bank.transaction_id_seq": "select bank.transfer(2, 3, 1)",
    "bank.account_account_id_seq": "select bank.open_account('Eve', 'EUR')",
    "bank.ledger_ledger_id_seq": "select bank.create_ledger('Another')",
    "bank.api_key_api_key_id_seq": "select bank.create_api_key('k', sha256('other'), '{admin}')",
}
"""With what draws from it."""


@pytest.fixture(autouse=True)
def history(app: Connection, owner: Connection) -> None:
    """Accounts 1 to 5, transactions 1 to 4, ledgers 1 to 3, keys 1 and 2."""
    for _ in range(4):
        open_account(app, 500)
    for name in ("Second", "Third"):
        call(owner, "create_ledger", name)
    for number in range(2):
        owner.execute(
            "select bank.create_api_key('key', sha256(%s), '{admin}', ledger_id => 2)", [str(number).encode()]
        )
    assert violations(app) == []


def state_of(owner: Connection, sequence: str) -> Row:
    (row,) = owner.execute(f"select last_value, is_called, xmin::text, ctid from {sequence}".encode()).fetchall()
    return row


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("back", ["1, true", "1, false", "{highest} - 1, true", "{highest}, false"])
def test_a_sequence_that_is_behind_is_told_by_verify_and_mended_by_migrate(
    bank: Bank, app: Connection, owner: Connection, sequence: str, back: str
) -> None:
    highest = state_of(owner, sequence)["last_value"]
    assert highest > 1
    owner.execute(f"select setval('{sequence}', {back.format(highest=highest)})".encode())
    (violation,) = violations(app)
    assert (violation["violation"], violation["ledger_id"], violation["account_id"]) == ("sequence_behind", None, None)
    last = state_of(owner, sequence)["last_value"]
    assert violation["detail"] == {"sequence": sequence, "last_value": last, "highest_id": highest}

    assert migrate(bank.owner_url) == []
    assert violations(app) == []
    for statement in SEQUENCES.values():
        owner.execute(statement.encode())
    assert state_of(owner, sequence)["last_value"] == highest + 1
    assert violations(app) == []


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_sequence_that_is_just_at_the_last_id_or_ahead_is_not_behind(
    app: Connection, owner: Connection, sequence: str
) -> None:
    highest = state_of(owner, sequence)["last_value"]
    for ahead in (f"{highest}, true", f"{highest} + 1, false", f"{highest} + 1000, true"):
        owner.execute(f"select setval('{sequence}', {ahead})".encode())
        assert violations(app) == []


def test_verify_of_one_ledger_tells_only_of_ids_of_that_ledger(app: Connection, owner: Connection) -> None:
    owner.execute("select setval('bank.transaction_id_seq', 1)")
    (violation,) = app.execute("select * from bank.verify(1)").fetchall()
    assert (violation["violation"], violation["ledger_id"]) == ("sequence_behind", 1)
    assert app.execute("select * from bank.verify(2)").fetchall() == []


def test_sequences_that_are_not_behind_are_left_alone_and_nobody_is_waited_for(
    owner: Connection, sessions: Sessions
) -> None:
    """A posting in flight has the lock of its sequence, which a mend would wait for."""
    sessions.holding("select bank.transfer(2, 3, 1), bank.open_account('Eve', 'EUR')")
    before = [state_of(owner, sequence) for sequence in SEQUENCES]
    owner.execute("set lock_timeout = '1ms'")
    owner.execute("select bank._mend_sequences()")
    assert [state_of(owner, sequence) for sequence in SEQUENCES] == before


@pytest.mark.parametrize("ahead", [0, 50])
def test_a_mend_waits_for_who_draws_from_the_sequence_and_then_reads_again(
    bank: Bank, app: Connection, owner: Connection, sessions: Sessions, ahead: int
) -> None:
    owner.execute("select setval('bank.transaction_id_seq', 1)")
    drawing = sessions.idle("postgres", autocommit=False)
    drawing.execute("select nextval('bank.transaction_id_seq')")
    mending = sessions.start("select bank._mend_sequences()", "bank_owner")
    assert mending.is_blocked_by(drawing)
    if ahead:
        # Somebody else mended it meanwhile.
        drawing.execute("select setval('bank.transaction_id_seq', %s)", [ahead])
    drawing.commit()
    mending.rows()
    assert state_of(owner, "bank.transaction_id_seq")["last_value"] == (ahead or 4)
    call(app, "transfer", 2, 3, 1)
    assert violations(app) == []


def test_who_queues_behind_a_mend_passes_it_while_it_still_waits(
    owner: Connection, app: Connection, sessions: Sessions
) -> None:
    drawing = sessions.holding("select nextval('bank.transaction_id_seq')", "postgres")
    owner.execute("select setval('bank.transaction_id_seq', 1)")
    mending = sessions.start("select bank._mend_sequences()", "bank_owner")
    assert mending.is_blocked_by(drawing)
    # Between two attempts of the mend it gets through, and takes an id that is not there in its own ledger.
    sessions.start("select nextval('bank.transaction_id_seq')", "postgres").rows()
    assert not mending.future.done()
    drawing.commit()
    mending.rows()
    assert violations(app) == []


def test_a_mend_that_cannot_get_the_lock_fails_the_install_which_can_be_repeated(
    bank: Bank, owner: Connection, app: Connection, sessions: Sessions
) -> None:
    drawing = sessions.holding("select nextval('bank.transaction_id_seq')", "postgres")
    owner.execute("select setval('bank.transaction_id_seq', 1)")
    with ThreadPoolExecutor(1) as executor, pytest.raises(Exception, match="lock timeout"):
        executor.submit(migrate, bank.owner_url).result()
    drawing.rollback()
    assert migrate(bank.owner_url) == []
    assert violations(app) == []


def test_verify_raises_no_false_alarm_when_postings_commit_after_it_has_begun(
    app: Connection, sessions: Sessions
) -> None:
    """The sequence is read as it is now, the ids as they were when the snapshot was taken."""
    verifying = sessions.idle("bank_app", autocommit=False)
    verifying.execute("set transaction isolation level repeatable read")
    assert violations(verifying) == []
    sessions.holding("select bank.transfer(2, 3, 1)")  # has drawn and is not seen
    call(app, "transfer", 4, 5, 1)
    assert violations(verifying) == []
    assert violations(app) == []


def test_ids_of_stripes_are_not_drawn_so_that_they_count_for_no_sequence(app: Connection, owner: Connection) -> None:
    hot = call(app, "open_account", "Hot", "EUR", None)["account_id"]
    call(app, "stripe_account", hot, 4)
    assert violations(app) == []
    owner.execute("select setval('bank.account_account_id_seq', %s, false)", [hot])
    (violation,) = violations(app)
    assert violation["detail"]["highest_id"] == hot
