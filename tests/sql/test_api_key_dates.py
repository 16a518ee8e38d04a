"""A key is valid from its creation to its expiry or revocation, and is listed for ever."""

import hashlib

import psycopg
import pytest

from tests.conftest import Connection
from tests.helpers import Row, call, call_all, raises


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def create(owner: Connection, key: str, expires_in: str | None = None) -> Row:
    row = owner.execute(
        "select * from bank.create_api_key(%s, %s, '{admin}', clock_timestamp() + %s::interval)",
        [key, digest(key), expires_in],
    ).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize(("expires_in", "valid"), [(None, True), ("1 hour", True), ("-1 second", False)])
def test_a_key_authenticates_until_it_expires(
    app: Connection, owner: Connection, expires_in: str | None, valid: bool
) -> None:
    key = create(owner, "k", expires_in)
    assert call(app, "authenticate", digest("k"))["api_key_id"] == (key["api_key_id"] if valid else None)


def test_revoking_one_key_leaves_the_others_valid(app: Connection, owner: Connection) -> None:
    first, second = create(owner, "first"), create(owner, "second")
    assert call(owner, "revoke_api_key", first["api_key_id"])["revoked_at"] is not None
    assert call(app, "authenticate", digest("second")) == second


def test_keys_are_listed_oldest_first_without_their_digests(owner: Connection) -> None:
    created = [create(owner, key) for key in ("b", "a", "c")]
    listed = call_all(owner, "list_api_keys")
    assert listed == created
    assert "key_digest" not in listed[0]


@pytest.mark.parametrize("scopes", [None, ["admin", None], ["Admin"], ["admin", "nope"]])
def test_a_scope_is_one_of_the_known_ones(owner: Connection, scopes: list[str | None] | None) -> None:
    with pytest.raises(psycopg.IntegrityError):
        call(owner, "create_api_key", "k", digest("k"), scopes)


@pytest.mark.parametrize("expires_at", ["infinity", "-infinity", "10000-01-01", "9999-12-31 12:00+00", "0001-01-01 BC"])
def test_a_key_expires_at_a_time_that_can_be_read_back(owner: Connection, expires_at: str) -> None:
    with raises("TLARG", "invalid_argument", "expires_at"):
        owner.execute("select bank.create_api_key('k', %s, '{admin}', %s)", [digest("k"), expires_at])
    assert call_all(owner, "list_api_keys") == []


@pytest.mark.parametrize("time_zone", ["UTC", "Etc/GMT-14", "Etc/GMT+12", "Africa/Monrovia"])
def test_the_last_time_that_a_key_can_expire_at_is_read_in_every_time_zone(
    app: Connection, owner: Connection, time_zone: str
) -> None:
    for connection in (app, owner):
        connection.execute("select set_config('timezone', %s, false)", [time_zone])
    for name, expires_at in (("last", "9999-12-29 00:00+00"), ("first", "0001-01-03 00:00+00")):
        owner.execute("select bank.create_api_key(%s, %s, '{admin}', %s)", [name, digest(name), expires_at])
    assert [row["expires_at"].year for row in call_all(owner, "list_api_keys")] == [9999, 1]
    assert call(app, "authenticate", digest("last"))["expires_at"].year == 9999
