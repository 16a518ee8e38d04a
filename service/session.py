"""What every session of ours in the database is set to, whatever the database's, the role's or the URL's defaults."""

from typing import Any

from psycopg.conninfo import conninfo_to_dict

_SETTINGS = {
    # The locks of the posting engine count on it: a statement that waited sees what was committed meanwhile.
    "default_transaction_isolation": "read committed",
    # What is sent and read back is written so.
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "datestyle": "ISO",
}

_CONNECTION = {
    "connect_timeout": 10,
    # A connection that died without a word is noticed within a minute, idle or not.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


def connection_defaults(database_url: str, **settings: int) -> dict[str, Any]:
    """Return how long a connection waits for a server that is gone, where the URL does not say; settings win."""
    asked = conninfo_to_dict(database_url)
    return {name: value for name, value in {**_CONNECTION, **settings}.items() if name not in asked}


def session_options(database_url: str, **settings: str) -> str:
    """Return the `options` of a connection: those of the URL, then ours and these settings, which win."""
    asked = conninfo_to_dict(database_url).get("options")
    ours = [f"-c {name}={_escape(value)}" for name, value in {**_SETTINGS, **settings}.items()]
    return " ".join([*([str(asked)] if asked else []), *ours])


def _escape(value: str) -> str:
    """Write a value as libpq's options have it, in which a blank ends it."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
