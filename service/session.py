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

_STATEMENT_SHARE = 0.9
"""Of the deadline: nearly always it is the server that gives up first, and so it is known that nothing was posted."""

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


def login_settings(**settings: str) -> dict[str, str]:
    """Return what a login has set by its role, so that it holds where a pooler lets no `options` through."""
    return {**_SETTINGS, "timezone": "UTC", **settings}


def service_settings(*, request_timeout_seconds: int, lock_timeout_ms: int) -> dict[str, str]:
    """Return what the service's sessions are set to besides."""
    return {
        "timezone": "UTC",
        "statement_timeout": f"{int(1000 * _STATEMENT_SHARE * request_timeout_seconds)}ms",
        "lock_timeout": f"{lock_timeout_ms}ms",
        # One of them says that a commit did not reach the synchronous standby.
        "client_min_messages": "warning",
    }


def _escape(value: str) -> str:
    """Write a value as libpq's options have it, in which a blank ends it."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
