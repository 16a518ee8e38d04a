"""Logins: the roles by which the service and SQL callers come in, each a member of bank_app or of bank_reader.

A group role that nobody logs in as can be granted and taken away; a login may alter its own password and settings, so
that what several share, each of them changes for all. Roles are the server's: a login is known in all its databases.
"""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from service.config import Settings
from service.rights import excess_rights
from service.session import login_settings, service_settings

CALLER, READER = "bank_app", "bank_reader"
SERVICE_LOGIN = "pgteller_service"
NAME_BYTES_MAX = 63
"""PostgreSQL cuts longer names off, and so might give one login the name of another."""

_MARK = "login of pgteller since "
"""The comment on each role that was made here, followed by the day: others are not altered or dropped."""
_ADMIN_OPTION = 160_000
"""From this version on CREATEROLE alone no longer grants every role, nor alters it: that needs ADMIN on it. And each
membership says whether the role is inherited, and may be taken."""
_ENDING_SECONDS_MAX = 5.0
"""How long to wait for sessions to end that were told to. One that the disk holds up may take longer."""

# Somebody at a terminal, or a program of its own: a lock that is forgotten, or a transaction left open, ends by itself.
PEOPLE_SETTINGS = {
    "statement_timeout": "5min",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "1min",
}

# Of the owner's URL, what leads to the server; the rest is the owner's own.
_ADDRESS = (
    *("host", "hostaddr", "port", "sslmode", "sslrootcert", "sslnegotiation", "channel_binding", "gssencmode"),
    *("target_session_attrs", "load_balance_hosts"),
)

_FIND = "select shobj_description(r.oid, 'pg_authid') as comment from pg_roles as r where r.rolname = %s"

# Superusers and members of bank_owner are among them: they may call too. And what we made and is of no use any more: it
# was dropped halfway, or has outlived the roles that it was a member of.
_LOGINS = """
select
    r.rolname::text as name,
    case
        when pg_has_role(r.oid, to_regrole('bank_app'), 'member') then 'call'
        when pg_has_role(r.oid, to_regrole('bank_owner'), 'member') then 'call'
        when pg_has_role(r.oid, to_regrole('bank_reader'), 'member') then 'read'
        when has_schema_privilege(r.oid, to_regnamespace('bank'), 'usage') then 'other'
        else 'nothing'
    end as may,
    r.rolcanlogin and r.rolconnlimit <> 0 as can_log_in,
    shobj_description(r.oid, 'pg_authid') as comment,
    r.rolvaliduntil <= clock_timestamp() as expired,
    not has_database_privilege(r.oid, current_database(), 'connect') as shut_out,
    (select count(*) from pg_stat_activity as a where a.usesysid = r.oid) as sessions
from pg_roles as r
where
    starts_with(shobj_description(r.oid, 'pg_authid'), %(mark)s)
    or r.rolcanlogin and (
        has_schema_privilege(r.oid, to_regnamespace('bank'), 'usage')
        or pg_has_role(r.oid, to_regrole('bank_app'), 'member')
        or pg_has_role(r.oid, to_regrole('bank_reader'), 'member')
        or pg_has_role(r.oid, to_regrole('bank_owner'), 'member')
    )
order by r.rolname
"""

_USE = """
select
    r.oid,
    r.rolcanlogin and r.rolconnlimit <> 0 as can_log_in,
    r.rolvaliduntil <= clock_timestamp() as expired,
    pg_has_role(r.oid, to_regrole('bank_app'), 'usage') as calls,
    pg_has_role(r.oid, to_regrole('bank_reader'), 'usage') as reads
from pg_roles as r where r.rolname = %s
"""

# Of a role, in the database of the connection.
_OWNS = """
select exists (
    select from pg_shdepend as s
    where
        s.refclassid = 'pg_authid'::regclass and s.refobjid = %s and s.deptype = 'o'
        and s.dbid = (select d.oid from pg_database as d where d.datname = current_database())
) as owns
"""


class LoginError(psycopg.OperationalError):
    """A login cannot be made, changed or dropped; the message says why and what to do."""


@dataclass(frozen=True)
class Login:
    """A login as it is to be: its password, and what its sessions are set to."""

    name: str
    password: str = field(repr=False)
    read_only: bool = False
    settings: dict[str, str] = field(default_factory=lambda: login_settings(**PEOPLE_SETTINGS))


@dataclass(frozen=True)
class LoginState:
    """A login as it is found."""

    name: str
    may: str
    since: str
    sessions: int
    warnings: list[str]


def service_login(settings: Settings, password: str) -> Login:
    """Return the login of the HTTP service, with timeouts as the settings say."""
    of_service = service_settings(
        request_timeout_seconds=settings.request_timeout_seconds, lock_timeout_ms=settings.lock_timeout_ms
    )
    return Login(SERVICE_LOGIN, password, settings=login_settings(**of_service))


def check_name(name: str) -> str | None:
    """Return what is wrong with the name of a login, or None."""
    if not name.strip() or "\0" in name:
        return "it is blank"
    if len(name.encode()) > NAME_BYTES_MAX:
        return f"it is longer than {NAME_BYTES_MAX} bytes, of which PostgreSQL would cut the rest off"
    if name.startswith("pg_") or name in ("public", "none"):
        return "PostgreSQL keeps it for itself"
    return None


def create(connection: psycopg.Connection[Any], login: Login) -> None:
    """Make a login; raises LoginError when the name is taken.

    One that we made and that is of no use any more is made whole: dropped halfway, or without what it was a member of.
    """
    found = _is_ours(connection, login.name)
    if found is False:
        raise LoginError(f"{login.name} is taken by a role that pgteller did not make: choose another name")
    if found and _is_of_use(connection, login.name):
        raise LoginError(
            f"{login.name} is a login already: `pgteller logins rotate {login.name}` gives it a new password"
        )
    with connection.transaction():
        _require_power(connection)
        if found:
            _as_its_admin(connection, login.name)
            _make_whole(connection, login)
            _leave_other_group(connection, login)
            _note_day(connection, login.name)
        else:
            _create(connection, login)


def ensure(connection: psycopg.Connection[Any], login: Login) -> None:
    """Make a login, or make it whole, with its password and settings; it can log in and call then.

    Raises LoginError when another role has its name, or when it may not connect to the database.
    """
    with connection.transaction():
        if check_ensure(connection, login.name):
            _make_whole(connection, login)
        else:
            _require_power(connection)
            _create(connection, login)
    asked = connection.execute("select has_database_privilege(%s, current_database(), 'connect')", [login.name])
    if asked.fetchone() != (True,):
        database = sql.Identifier(connection.info.dbname).as_string()
        raise LoginError(
            f"{login.name} may not connect to database {connection.info.dbname}; the owner of the database or a "
            f"superuser mends that by: grant connect on database {database} to "
            f"{sql.Identifier(login.name).as_string()}"
        )


def check_ensure(connection: psycopg.Connection[Any], name: str) -> bool:
    """Return whether there is the login already; raises LoginError when the role of that name is not ours to alter."""
    found = _is_ours(connection, name)
    if found is False:
        role = sql.Identifier(name).as_string()
        raise LoginError(f"{name} is a role that pgteller did not make: rename it, as by alter role {role} rename to …")
    if found:
        _as_its_admin(connection, name)
    return bool(found)


def needs_power(connection: psycopg.Connection[Any], name: str) -> bool:
    """Return whether ensure() has to make the login of that name, or a member of bank_app of it."""
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_USE, [name]).fetchone()
    return row is None or not row["calls"]


def rotate(connection: psycopg.Connection[Any], name: str, password: str) -> None:
    """Give a login a new password, by which it can log in. Its sessions go on: only new ones need the new one."""
    _require_ours(connection, name)
    _as_its_admin(connection, name)
    use = _use_of(connection, name)
    if not (use["calls"] or use["reads"]):
        raise LoginError(
            f"{name} is no member of bank_app or bank_reader any more: `pgteller logins create {name}` makes it anew, "
            f"`pgteller logins drop {name}` ends it"
        )
    with connection.transaction():
        _let_in(connection, name)
        set_password(connection, name, password)


def drop(connection: psycopg.Connection[Any], name: str) -> tuple[int, list[int]]:
    """Drop a login and end its sessions; return how many were open, and the processes of those that are left.

    A session that has taken the role bank_app keeps its rights for as long as it lasts, whatever becomes of the login:
    so it is ended. What the login was granted in this database, or on the server, is taken back. Raises LoginError
    when it owns something, or was granted something in another database: then nobody can log in by it, its sessions
    have ended, and it waits to be dropped.
    """
    _require_ours(connection, name)
    _as_its_admin(connection, name)
    oid: int = _use_of(connection, name)["oid"]
    role = sql.Identifier(name)
    connection.execute(sql.SQL("alter role {} nologin").format(role))  # nobody comes in while the sessions end
    sessions = _sessions_of(connection, oid)
    _end_sessions(connection, name, oid)
    try:
        with connection.transaction():
            owns = connection.execute(_OWNS, [oid]).fetchone() != (False,)
            if not owns and _join(connection, name):
                with suppress(psycopg.errors.InsufficientPrivilege), connection.transaction():
                    connection.execute(sql.SQL("drop owned by {}").format(role))  # grants: it owns nothing here
            connection.execute(sql.SQL("drop role {}").format(role))
    except psycopg.errors.DependentObjectsStillExist as error:
        what = "; ".join((error.diag.message_detail or "").splitlines())
        quoted = role.as_string()
        left = _sessions_of(connection, oid)
        raise LoginError(
            f"{name} can log in no more, but cannot be dropped: {what}. "
            + (f"Sessions of it go on until they end: processes {', '.join(map(str, left))}. " if left else "")
            + "In each database that has some of it, run, as a superuser where this is denied: "
            f"grant {quoted} to current_user; reassign owned by {quoted} to current_user; drop owned by {quoted}; "
            f"then `pgteller logins drop {name}` again"
        ) from None
    return len(sessions), _sessions_of(connection, oid)


def states(connection: psycopg.Connection[Any]) -> list[LoginState]:
    """Return every login that may use the bank of this database, whoever made it, with what is odd about it."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_LOGINS, {"mark": _MARK}).fetchall()
    return [
        LoginState(
            name=row["name"],
            may=row["may"],
            since=row["comment"].removeprefix(_MARK) if _is_mark(row["comment"]) else "",
            sessions=row["sessions"],
            warnings=[
                *_remedies(row),
                *(["its password has expired"] if row["expired"] else []),
                *(["may not connect to this database"] if row["shut_out"] else []),
                *excess_rights(connection, row["name"]),
            ],
        )
        for row in rows
    ]


def url_of(connection: psycopg.Connection[Any], owner_url: str, name: str, password: str | None) -> str:
    """Return the URL by which a login reaches the database of the connection, as the owner's URL does."""
    asked = conninfo_to_dict(owner_url)
    login = quote(name, safe="") + ("" if password is None else f":{quote(password, safe='')}")
    address = urlencode({key: str(asked[key]) for key in _ADDRESS if asked.get(key)}, quote_via=quote)
    host = str(asked.get("host", ""))
    plain = host and not any(character in host for character in "/,:@%") and "hostaddr" not in asked
    if plain:
        rest = urlencode({key: str(asked[key]) for key in _ADDRESS[2:] if asked.get(key) and key != "port"})
        port = f":{asked['port']}" if asked.get("port") else ""
        place, address = f"{host}{port}", rest
    else:
        place = ""
    database = quote(connection.info.dbname, safe="")
    return f"postgresql://{login}@{place}/{database}" + (f"?{address}" if address else "")


def _is_ours(connection: psycopg.Connection[Any], name: str) -> bool | None:
    """Return whether a role was made here; None when there is no such role."""
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_FIND, [name]).fetchone()
    return None if row is None else _is_mark(row["comment"])


def _remedies(row: dict[str, Any]) -> list[str]:
    """Return what is the matter with a login that is of no use, and what to do."""
    if row["can_log_in"] and row["may"] != "nothing":
        return []
    fault = "may neither call nor read" if row["can_log_in"] else "cannot log in"
    anew = "`SERVICE_PASSWORD=… pgteller migrate`" if row["name"] == SERVICE_LOGIN else "create it again"
    return [f"{fault}: drop it, or {anew}"]


def _use_of(connection: psycopg.Connection[Any], name: str) -> dict[str, Any]:
    with connection.cursor(row_factory=dict_row) as cursor:
        [row] = cursor.execute(_USE, [name]).fetchall()
    return row


def _is_of_use(connection: psycopg.Connection[Any], name: str) -> bool:
    use = _use_of(connection, name)
    return bool(use["can_log_in"] and (use["calls"] or use["reads"]))


def _is_mark(comment: str | None) -> bool:
    return comment is not None and comment.startswith(_MARK)


def _require_ours(connection: psycopg.Connection[Any], name: str) -> None:
    found = _is_ours(connection, name)
    if found is None:
        raise LoginError(f"there is no login {name}: see `pgteller logins list`")
    if not found:
        raise LoginError(f"{name} is a role that pgteller did not make: use alter role and drop role of PostgreSQL")


def _require_power(connection: psycopg.Connection[Any]) -> None:
    """Raise LoginError where the connection's role may make no login that calls or reads, with all that mends it."""
    with connection.cursor(row_factory=dict_row) as cursor:
        [row] = cursor.execute(
            """
            select
                r.rolname::text as name, r.rolsuper, r.rolcreaterole,
                pg_has_role(r.oid, to_regrole('bank_app'), 'member with admin option') as calls,
                pg_has_role(r.oid, to_regrole('bank_reader'), 'member with admin option') as reads
            from pg_roles as r where r.rolname = current_user
            """
        ).fetchall()
    if row["rolsuper"]:
        return
    name = sql.Identifier(row["name"]).as_string()
    lacks, mending = [], []
    missing = [group for group, admin in ((CALLER, row["calls"]), (READER, row["reads"])) if admin is False]
    if not row["rolcreaterole"]:
        lacks.append("create roles")
        mending.append(f"alter role {name} createrole")
    if missing and connection.info.server_version >= _ADMIN_OPTION:
        groups = ", ".join(missing)
        lacks.append(f"grant {groups}, which another role has made")
        mending.append(f"grant {groups} to {name} with admin option")
    if lacks:
        raise LoginError(
            f"cannot make a login: {row['name']} may not {', or '.join(lacks)}; a superuser mends that by: "
            f"{'; '.join(mending)}"
        )


def _as_its_admin(connection: psycopg.Connection[Any], name: str) -> None:
    """Raise LoginError when the role of the connection may not alter the login."""
    with connection.cursor(row_factory=dict_row) as cursor:
        [row] = cursor.execute(
            """
            select r.rolname::text as name, r.rolsuper, r.rolcreaterole,
                pg_has_role(r.oid, %s, 'member with admin option') as is_admin
            from pg_roles as r where r.rolname = current_user
            """,
            [name],
        ).fetchall()
    if row["rolsuper"]:
        return
    if not row["rolcreaterole"] or (connection.info.server_version >= _ADMIN_OPTION and not row["is_admin"]):
        raise LoginError(
            f"{row['name']} may not alter {name}: connect as the role that made it, or as a superuser; "
            "DATABASE_OWNER_URL says as whom"
        )


def _create(connection: psycopg.Connection[Any], login: Login) -> None:
    role = sql.Identifier(login.name)
    group = sql.Identifier(READER if login.read_only else CALLER)
    try:
        connection.execute(
            sql.SQL(
                "create role {} login inherit nosuperuser nocreaterole nocreatedb noreplication nobypassrls in role {}"
            ).format(role, group)
        )
    except psycopg.errors.DuplicateObject:
        raise LoginError(f"{login.name} is a role already, made at this moment: choose another name") from None
    _note_day(connection, login.name)
    set_password(connection, login.name, login.password)
    _set_settings(connection, login)


def _note_day(connection: psycopg.Connection[Any], name: str) -> None:
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    connection.execute(sql.SQL("comment on role {} is {}").format(sql.Identifier(name), sql.Literal(_MARK + today)))


def _make_whole(connection: psycopg.Connection[Any], login: Login) -> None:
    """Make an existing login what _create() makes: whatever became of it, it can log in, and do what it is for."""
    _let_in(connection, login.name)
    group = READER if login.read_only else CALLER
    # Inherited and, as the service does, taken.
    take = "set" if connection.info.server_version >= _ADMIN_OPTION else "member"
    asked = connection.execute(
        "select pg_has_role(%(name)s, %(group)s, 'usage') and pg_has_role(%(name)s, %(group)s, %(take)s)",
        {"name": login.name, "group": group, "take": take},
    )
    if asked.fetchone() != (True,):
        _require_power(connection)
        options = " with inherit true, set true" if connection.info.server_version >= _ADMIN_OPTION else ""
        connection.execute(
            sql.SQL("grant {} to {}" + options).format(sql.Identifier(group), sql.Identifier(login.name))
        )
    set_password(connection, login.name, login.password)
    _set_settings(connection, login)


def _leave_other_group(connection: psycopg.Connection[Any], login: Login) -> None:
    """Let a login that is made again do what is asked for this time, and no more."""
    other = CALLER if login.read_only else READER
    connection.execute(sql.SQL("revoke {} from {}").format(sql.Identifier(other), sql.Identifier(login.name)))
    if connection.execute("select pg_has_role(%s, %s, 'member')", [login.name, other]).fetchone() != (False,):
        raise LoginError(f"{login.name} is a member of {other}, which another role granted: choose another name")


def _let_in(connection: psycopg.Connection[Any], name: str) -> None:
    role = sql.Identifier(name)
    connection.execute(sql.SQL("alter role {} login inherit").format(role))
    use = _use_of(connection, name)
    if not use["can_log_in"]:
        connection.execute(sql.SQL("alter role {} connection limit -1").format(role))
    if use["expired"]:
        connection.execute(sql.SQL("alter role {} valid until 'infinity'").format(role))


def _join(connection: psycopg.Connection[Any], name: str) -> bool:
    """Make the connection's role a member of a login that it may alter, to act for it; return whether it is one."""
    if connection.execute("select pg_has_role(%s, 'usage')", [name]).fetchone() == (True,):
        return True
    options = " with inherit true" if connection.info.server_version >= _ADMIN_OPTION else ""
    try:
        with connection.transaction():
            connection.execute(sql.SQL("grant {} to current_user" + options).format(sql.Identifier(name)))
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidGrantOperation):
        return False  # the second: it is a member of ours
    return True


def _end_sessions(connection: psycopg.Connection[Any], name: str, oid: int) -> None:
    """End the sessions of a login, where that is permitted, and wait until they have ended."""
    told = False
    with (
        suppress(psycopg.errors.InsufficientPrivilege),
        connection.transaction(force_rollback=True),  # of the membership alone: a session stays ended
    ):
        _join(connection, name)
        connection.execute("select pg_terminate_backend(a.pid) from pg_stat_activity as a where a.usesysid = %s", [oid])
        told = True
    deadline = time.monotonic() + _ENDING_SECONDS_MAX
    while told and _sessions_of(connection, oid) and time.monotonic() < deadline:
        time.sleep(0.05)


def _sessions_of(connection: psycopg.Connection[Any], oid: int) -> list[int]:
    rows = connection.execute("select a.pid from pg_stat_activity as a where a.usesysid = %s order by 1", [oid])
    return [pid for (pid,) in rows.fetchall()]


def _set_settings(connection: psycopg.Connection[Any], login: Login) -> None:
    for name, value in login.settings.items():
        connection.execute(
            sql.SQL("alter role {} set {} = {}").format(
                sql.Identifier(login.name), sql.Identifier(name), sql.Literal(value)
            )
        )


def set_password(connection: psycopg.Connection[Any], name: str, password: str) -> None:
    """Give a role a password; the role of the connection is a superuser, or may alter that one."""
    # Encrypted here, so that no log of the server's can hold the password itself.
    encrypted = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256")
    connection.execute(
        sql.SQL("alter role {} password {}").format(sql.Identifier(name), sql.Literal(encrypted.decode()))
    )
