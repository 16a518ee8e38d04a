"""A sequence that is behind the data, as after logical replication: the error says so, and nothing is lost."""

from collections.abc import Callable

import pytest

from tests.conftest import Connection
from tests.helpers import balance_of, call, call_all, open_account, raises, violations

Way = Callable[[Connection, int, int, str | None], object]


@pytest.mark.parametrize("key", [None, "new"])
@pytest.mark.parametrize(
    "way",
    [
        lambda app, ada, bob, key: call(app, "transfer", ada, bob, 1, key),
        lambda app, ada, bob, key: call_all(app, "post_transfers", [ada], [bob], [1], key and [key]),
        lambda app, ada, bob, key: call(app, "post_legs", [ada, bob], [-1, 1], idempotency_key=key),
        lambda app, ada, bob, key: call(app, "authorise", ada, 1, bob, idempotency_key=key),
    ],
    ids=["transfer", "post_transfers", "post_legs", "authorise"],
)
def test_a_clash_of_transaction_ids_says_that_the_sequence_is_behind(
    app: Connection, owner: Connection, way: Way, key: str | None
) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    owner.execute("select setval('bank.transaction_id_seq', 1, false)")
    with raises("TLSEQ", "sequence_behind", "transaction_id") as facts:
        way(app, ada, bob, key)
    assert facts["transaction_id"] == 1
    assert (balance_of(app, ada), balance_of(app, bob)) == (100, 0)
    assert way(app, ada, bob, key)
    assert [row for row in violations(app) if row["violation"] != "sequence_behind"] == []


def test_a_retry_finds_its_transaction_though_the_sequence_is_behind(app: Connection, owner: Connection) -> None:
    ada, bob = open_account(app, 100), open_account(app)
    first = call(app, "transfer", ada, bob, 1, "key")
    owner.execute("select setval('bank.transaction_id_seq', 1, false)")
    assert call(app, "transfer", ada, bob, 1, "key") == {**first, "replayed": True}
