"""What every session of ours in the database is set to, whatever the database's, the role's or the URL's defaults."""

from typing import Any

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

_SETTINGS = {
    # The locks of the posting engine count on it: a statement that waited sees what was committed meanwhile.
    "default_transaction_isolation": "read committed",
    # What is sent and read back is written so.
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "datestyle": "ISO",
    # Nobody who may create objects elsewhere, as in public, has us execute a function or an operator of his.
    "search_path": "pg_catalog, pg_temp",
}

PATIENT = {
    # Of the database, the role or the URL, and meant for applications.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    # What we may do is decided by who has logged in.
    "role": "none",
}
"""What a session of a command is set to that takes as long as it takes: to migrate, to hold a lock, to look on."""

_STATEMENT_SHARE = 0.9
"""Of the deadline: nearly always it is the server that gives up first, and so it is known that nothing was posted."""
BEGIN = f"begin isolation level {_SETTINGS['default_transaction_isolation']}"
"""How a transaction of ours begins where the session's settings are not ours."""

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


def application(database_url: str, name: str) -> dict[str, str]:
    """Return what our sessions are called, where the URL does not say."""
    return {} if "application_name" in conninfo_to_dict(database_url) else {"application_name": name}


def session_options(database_url: str, **settings: str) -> str:
    """Return the `options` of a connection: those of the URL, then ours and these settings, which win."""
    asked = conninfo_to_dict(database_url).get("options")
    ours = [f"-c {name}={_escape(value)}" for name, value in {**_SETTINGS, **settings}.items()]
    return " ".join([*([str(asked)] if asked else []), *ours])


def login_settings(**settings: str) -> dict[str, str]:
    """Return what a login has set by its role, so that it holds where a pooler lets no `options` through.

    Not the search_path: people have tables of their own.
    """
    ours = {name: value for name, value in _SETTINGS.items() if name != "search_path"}
    return {**ours, "timezone": "UTC", **settings}


def service_settings(*, request_timeout_seconds: int, lock_timeout_ms: int) -> dict[str, str]:
    """Return what the service's sessions are set to besides."""
    return {
        "timezone": "UTC",
        "search_path": _SETTINGS["search_path"],
        "statement_timeout": f"{int(1000 * _STATEMENT_SHARE * request_timeout_seconds)}ms",
        "lock_timeout": f"{lock_timeout_ms}ms",
        # One of them says that a commit did not reach the synchronous standby.
        "client_min_messages": "warning",
    }


def set_settings(settings: dict[str, str], role: str, *, backend_pid: int | None = None) -> str:
    """Return the statement that sets ours, these, and the role, for the session.

    backend_pid: what the server said at the start of the session. Where a pooler has made that up, nothing is set, and
    no row returned: the session is not ours alone.
    """
    condition = "" if backend_pid is None else f" where pg_catalog.pg_backend_pid() = {backend_pid}"
    return f"select {_set_config({**_SETTINGS, **settings, 'role': role}, local=False)}{condition}"


def set_settings_locally(settings: dict[str, str], role: str) -> str:
    """Return the statement that sets ours, these, and the role, to the end of the transaction, and gives the backend.

    The isolation level is BEGIN's: see BEGIN.
    """
    values = {**_SETTINGS, **settings, "role": role}
    del values["default_transaction_isolation"]
    backend = "pg_catalog.pg_postmaster_start_time()::text as server, pg_catalog.pg_backend_pid() as pid"
    return f"select {backend}, {_set_config(values, local=True)}"


def _set_config(settings: dict[str, str], *, local: bool) -> str:
    # Of pg_catalog, whatever search_path somebody else has left behind.
    calls = (
        sql.SQL("pg_catalog.set_config({}, {}, {})").format(name, value, local).as_string()
        for name, value in settings.items()
    )
    return ", ".join(calls)


def _escape(value: str) -> str:
    """Write a value as libpq's options have it, in which a blank ends it."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
