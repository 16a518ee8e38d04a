"""Poolers between us and PostgreSQL, such as PgBouncer: what they say, and what it means.

Behind one a session is shared: what is set for it reaches other clients, and theirs reaches us. So nothing is: each
transaction sets for itself what it needs, its role included (session.py). Whether there is one is found out by
asking the server for its pid: a pooler makes up the one that a session begins with.
"""

import psycopg

# What poolers say is not translated, and nearly all of it has one SQLSTATE. (As PgBouncer 1.18 to 1.24 say it.)
_MEANINGS = {
    "unsupported startup parameter": "a pooler is between, which takes no such parameter: leave it out of the URL, or "
    "let the pooler ignore it (PgBouncer: ignore_startup_parameters)",
    "statement pooling mode": "the pooler lets no transaction last longer than a statement: set its pool_mode to "
    "transaction or session",
    "query_wait_timeout": "the pooler had no connection to PostgreSQL to give: it is paused, PostgreSQL does not "
    "answer behind it, or its default_pool_size is too small",
    "no more connections allowed": "the pooler has as many clients as its max_client_conn allows: raise that, or lower "
    "POOL_CONNECTIONS_MAX",
    "server login has been failing": "the pooler cannot log in to PostgreSQL; its own log says why",
    "cannot connect to server": "the pooler does not reach PostgreSQL; its own log says why",
    "client_login_timeout": "the pooler does not reach PostgreSQL; its own log says why",
    "server conn crashed": "the pooler has lost its connection to PostgreSQL",
    "pooler is shut": "the pooler is being stopped",
    "database is disabled": "the pooler does not serve this database now",
}

LOST_STATEMENT = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement)
"""The server does not have what we have prepared, or has what others have: the session is not ours alone."""

DEFAULTS = (
    "select name, reset_val as value from pg_settings"
    " where name in ('restrict_nonsystem_relation_kind', 'transaction_timeout')"
)
"""By which other clients could forbid us views, or end our transactions; older servers have neither of them."""


class PoolerInTheWayError(psycopg.OperationalError):
    """What is to be done needs the server itself; the message says what to set."""

    def __init__(self) -> None:
        super().__init__(
            "a pooler is between pgteller and PostgreSQL, and what acts as bank_owner needs the server itself: "
            "set DATABASE_OWNER_URL to an address that leads past the pooler "
            "(or DATABASE_POOLER=none, if what is between gives each connection a session of its own)"
        )


class ExcessRightsError(psycopg.OperationalError):
    """The login of the application may do more than bank_app, and cannot give that up behind a pooler."""

    def __init__(self, login: str, rights: list[str]) -> None:
        super().__init__(
            f"the login {login} {', '.join(rights)}. Behind a pooler it cannot step down to bank_app for good: "
            "let the service log in as a role that may do no more than bank_app "
            "(`pgteller logins create NAME` makes one), or connect it to PostgreSQL itself"
        )


def meaning(error: BaseException) -> str | None:
    """Return what an error of a pooler's means, and what to do; None of any other error."""
    if isinstance(error, LOST_STATEMENT):
        return "a pooler is between that was not found out: set DATABASE_POOLER=transaction"
    text = str(error)
    return next((words for said, words in _MEANINGS.items() if said in text), None)


def explained(error: BaseException) -> str:
    """Return an error as one line, with what it means if a pooler said it."""
    words = meaning(error)
    return " ".join(str(error).split()) + (f" ({words})" if words else "")


def refuses_options(error: psycopg.Error) -> bool:
    """Return whether a connection was refused for its options, as only poolers do."""
    return "unsupported startup parameter" in str(error)
