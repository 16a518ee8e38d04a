"""API keys: only their digests are kept, and only valid ones authenticate."""

import hashlib

import psycopg
import pytest

from tests.conftest import Connection
from tests.helpers import Row, call, call_all

DIGEST = hashlib.sha256(b"the key").digest()


def create(owner: Connection, **named: object) -> Row:
    return call(owner, "create_api_key", **{"name": "k", "key_digest": DIGEST, "scopes": ["admin"], **named})


def test_a_key_authenticates_with_its_ledger_and_scopes(app: Connection, owner: Connection) -> None:
    ledger_id = call(owner, "create_ledger", "Other")["ledger_id"]
    create(owner, scopes=["accounts:read", "transactions:write"], ledger_id=ledger_id)
    principal = call(app, "authenticate", DIGEST)
    assert (principal["ledger_id"], principal["scopes"]) == (ledger_id, ["accounts:read", "transactions:write"])
    assert not any(isinstance(value, bytes) for value in principal.values())


def test_an_unknown_key_has_no_principal(app: Connection, owner: Connection) -> None:
    create(owner)
    assert call(app, "authenticate", hashlib.sha256(b"another").digest())["ledger_id"] is None


def test_an_expired_key_has_no_principal(app: Connection, owner: Connection) -> None:
    create(owner, expires_at="2020-01-01T00:00:00Z")
    assert call(app, "authenticate", DIGEST)["ledger_id"] is None


def test_a_revoked_key_has_no_principal_and_stays_listed(app: Connection, owner: Connection) -> None:
    key = create(owner)
    revoked = call(owner, "revoke_api_key", key["api_key_id"])
    assert call(app, "authenticate", DIGEST)["ledger_id"] is None
    assert call(owner, "revoke_api_key", key["api_key_id"]) == revoked
    assert call_all(owner, "list_api_keys") == [revoked]


def test_revoking_no_key_returns_null(owner: Connection) -> None:
    assert call(owner, "revoke_api_key", 99)["api_key_id"] is None


@pytest.mark.parametrize(
    "named", [{"scopes": ["everything"]}, {"scopes": []}, {"name": " "}, {"key_digest": b"short"}, {"ledger_id": 99}]
)
def test_a_malformed_key_is_refused(owner: Connection, named: Row) -> None:
    arguments = {"name": "k", "key_digest": DIGEST, "scopes": ["admin"], **named}
    with pytest.raises(psycopg.IntegrityError):
        call(owner, "create_api_key", **arguments)


def test_many_keys_are_told_apart_in_their_order(app: Connection, owner: Connection) -> None:
    other = hashlib.sha256(b"another key").digest()
    create(owner)
    create(owner, key_digest=other, scopes=["accounts:read"])
    unknown = hashlib.sha256(b"of nobody").digest()
    principals = call_all(app, "principals", [other, unknown, DIGEST, other])
    assert [row["scopes"] for row in principals] == [["accounts:read"], None, ["admin"], ["accounts:read"]]
    assert principals[2] == call(app, "authenticate", DIGEST)
    assert call_all(app, "principals", []) == []


def test_a_digest_that_was_given_twice_is_one_principal(app: Connection, owner: Connection) -> None:
    """Nothing prevents it, and a second row would shift the keys after it."""
    first = create(owner)
    create(owner, scopes=["accounts:read"])
    principals = call_all(app, "principals", [DIGEST, DIGEST])
    assert [row["api_key_id"] for row in principals] == [first["api_key_id"]] * 2
    call(owner, "revoke_api_key", first["api_key_id"])
    assert call(app, "authenticate", DIGEST)["scopes"] == ["accounts:read"]
