"""What a database and a login need before a bank is installed or upgraded: asked before anything is changed.

Each fault is one line that names the cause and what mends it.
"""

from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from service.logins import check_ensure, needs_power

_SERVER_VERSION_MIN = 150_000
OPTIONS_OF_MEMBERSHIP = 160_000
"""From this version on a membership says whether the role may be taken (SET), and CREATEROLE alone grants no role that
somebody else has made."""

ROLES = ("bank_owner", "bank_app", "bank_reader")

_FACTS = """
select
    r.rolname::text as login,
    r.rolsuper,
    r.rolcreaterole,
    current_database()::text as database,
    pg_is_in_recovery() as is_standby,
    current_setting('transaction_read_only')::boolean as is_read_only,
    has_database_privilege(current_database(), 'create') as may_create_schema,
    to_regnamespace('bank') is not null as has_schema,
    exists (
        select from pg_class as c where c.relnamespace = to_regnamespace('bank') and c.relname = 'installation'
    ) as has_bank,
    exists (
        select from pg_class as c where c.relname = '_yoyo_migration' and c.relkind = 'r'
    ) as has_account,
    array(
        select t.name from unnest(%(roles)s::text[]) as t (name) where to_regrole(t.name) is null
    ) as missing_roles,
    (
        select pg_has_role(r.oid, a.oid, %(take)s) from pg_roles as a where a.rolname = 'bank_owner'
    ) as may_take_owner,
    (
        select pg_has_role(r.oid, a.oid, 'member with admin option') from pg_roles as a where a.rolname = 'bank_owner'
    ) as may_grant_owner,
    (select pg_has_role(r.oid, a.oid, 'member') from pg_roles as a where a.rolname = 'bank_owner') as is_owner,
    (select pg_has_role(r.oid, a.oid, 'member') from pg_roles as a where a.rolname = 'bank_app') as is_app,
    (
        select pg_has_role(r.oid, a.oid, 'member with admin option') from pg_roles as a where a.rolname = 'bank_app'
    ) as may_grant_app,
    (
        select pg_has_role(r.oid, a.oid, 'member with admin option') from pg_roles as a where a.rolname = 'bank_reader'
    ) as may_grant_reader,
    (
        select pg_get_userbyid(n.nspowner)::text from pg_namespace as n where n.nspname = 'bank'
    ) as schema_owner,
    array(
        select distinct pg_get_userbyid(c.relowner)::text from pg_class as c
        where c.relnamespace = to_regnamespace('bank') and pg_get_userbyid(c.relowner) <> 'bank_owner'
        union
        select distinct pg_get_userbyid(p.proowner)::text from pg_proc as p
        where
            p.pronamespace = to_regnamespace('bank') and pg_get_userbyid(p.proowner) <> 'bank_owner'
            -- What belongs to a type or an extension belongs to whoever made the cluster, or to that.
            and not exists (
                select from pg_depend as d
                where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype in ('e', 'i')
            )
    ) as other_owners
from pg_roles as r where r.rolname = current_user
"""


class PrerequisiteError(psycopg.OperationalError):
    """The database cannot be migrated as it is; the message says why and what to do."""


def check(
    connection: psycopg.Connection[Any], *, sets_app_password: bool = False, service_login: str | None = None
) -> None:
    """Raise PrerequisiteError unless a migration by the connection's login will have what it needs."""
    version = connection.info.server_version
    fault = version_fault(version)
    if fault is not None:  # it may lack the columns that the rest is found by
        raise PrerequisiteError(fault)
    facts = facts_of(connection)
    makes_login = (
        service_login is not None
        and not facts["missing_roles"]
        and (not check_ensure(connection, service_login) or needs_power(connection, service_login))
    )
    fault = (
        _database_fault(facts)
        or _bank_fault(facts)
        or _schema_fault(facts)
        or _role_fault(facts, version, sets_app_password=sets_app_password, makes_login=makes_login)
    )
    if fault is not None:
        raise PrerequisiteError(fault)


def version_fault(server_version: int) -> str | None:
    """Return why PostgreSQL is too old, or None when it is not."""
    if server_version >= _SERVER_VERSION_MIN:
        return None
    return f"PostgreSQL {server_version // 10_000} is too old: pgteller needs 15 to 18. Upgrade the server first"


def facts_of(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """Return what the catalogues say of the database and of the role of the connection."""
    take = taking(connection.info.server_version)
    with connection.cursor(row_factory=dict_row) as cursor:
        [facts] = cursor.execute(_FACTS, {"roles": list(ROLES), "take": take}).fetchall()
    return facts


def taking(server_version: int) -> str:
    """Return the privilege of pg_has_role() that says whether a role may be taken."""
    return "set" if server_version >= OPTIONS_OF_MEMBERSHIP else "member"


def quoted(name: str) -> str:
    """Return a name as SQL takes it, whatever it is."""
    return sql.Identifier(name).as_string()


def _database_fault(facts: dict[str, Any]) -> str | None:
    if facts["is_standby"]:
        return "this server is a standby and takes no writes: let DATABASE_OWNER_URL lead to the primary"
    if facts["is_read_only"]:
        database, login = quoted(facts["database"]), quoted(facts["login"])
        return (
            "transactions are read-only here: let DATABASE_OWNER_URL lead to the primary, or, if that was set by hand, "
            f"alter database {database} reset default_transaction_read_only (or alter role {login} reset …)"
        )
    return None


def _bank_fault(facts: dict[str, Any]) -> str | None:
    """A schema that is there already is a bank of ours, complete and owned as we left it."""
    if not facts["has_schema"]:
        return None
    if not facts["has_bank"]:
        return (
            "there is a schema bank in this database that pgteller did not make: rename it, as by "
            "alter schema bank rename to …, or use another database"
        )
    owners = sorted({facts["schema_owner"], *facts["other_owners"]} - {"bank_owner"})
    if owners or facts["missing_roles"]:
        what = (
            f"its objects belong to {', '.join(owners)}, not to bank_owner"
            if owners
            else f"this server has no role {', '.join(facts['missing_roles'])}"
        )
        return (
            f"the bank in this database was restored from elsewhere: {what}. `pgteller migrate --adopt` takes it over"
        )
    if not facts["has_account"]:
        return "the bank in this database has lost the table in which its migrations are noted, bank._yoyo_migration"
    return None


def _schema_fault(facts: dict[str, Any]) -> str | None:
    login, database = quoted(facts["login"]), quoted(facts["database"])
    if not facts["has_schema"] and not facts["may_create_schema"]:
        return (
            f"{facts['login']} may not create a schema in database {facts['database']}; the owner of the database or a "
            f"superuser mends that by: grant create on database {database} to {login}"
        )
    return None


def _role_fault(facts: dict[str, Any], version: int, *, sets_app_password: bool, makes_login: bool) -> str | None:
    """All that the login lacks in one line, so that one who mends it is asked once."""
    if facts["rolsuper"]:
        return None
    login = quoted(facts["login"])
    if facts["missing_roles"] and not facts["rolcreaterole"]:
        return (
            f"{facts['login']} may not create the roles {', '.join(facts['missing_roles'])}; a superuser mends that "
            f"by: alter role {login} createrole"
        )
    lacks, mending = [], []
    grants_all = facts["rolcreaterole"] and version < OPTIONS_OF_MEMBERSHIP
    # The first migration grants itself what it is no member of yet.
    joins_owner = not facts["has_schema"] and (grants_all or (facts["may_grant_owner"] and not facts["is_owner"]))
    if "bank_owner" not in facts["missing_roles"] and not facts["may_take_owner"] and not joins_owner:
        lacks.append("may not take the role bank_owner, which another role has made for this server")
        mending.append(f"grant bank_owner to {login}")
    joins_app = facts["has_schema"] or grants_all or facts["may_grant_app"] or facts["is_app"]
    if "bank_app" not in facts["missing_roles"] and not joins_app:
        lacks.append("is no member of bank_app, and may not make itself one")
        mending.append(f"grant bank_app to {login}")
    if sets_app_password and "bank_app" not in facts["missing_roles"]:
        powers = _powers(facts, version, {"bank_app": facts["may_grant_app"]})
        if powers:
            lacks.append("may not alter bank_app, for which BANK_APP_PASSWORD is set")
            mending += powers
    if makes_login:
        groups = {"bank_app": facts["may_grant_app"], "bank_reader": facts["may_grant_reader"]}
        powers = _powers(facts, version, groups)
        if powers:
            lacks.append("may not make the service's login, for which SERVICE_PASSWORD is set")
            mending += powers
    if not lacks:
        return None
    who = "a superuser" if any("createrole" in each for each in mending) else "whoever made the roles, or a superuser,"
    return f"{facts['login']} {'; it '.join(lacks)}; {who} mends that by: {'; '.join(dict.fromkeys(mending))}"


def _powers(facts: dict[str, Any], version: int, groups: dict[str, bool]) -> list[str]:
    """Return what mends it where the login may not alter these roles, or make members of them."""
    login = quoted(facts["login"])
    ungranted = [group for group, may_grant in groups.items() if not may_grant]
    return [
        *([] if facts["rolcreaterole"] else [f"alter role {login} createrole"]),
        *(
            [f"grant {', '.join(ungranted)} to {login} with admin option"]
            if ungranted and version >= OPTIONS_OF_MEMBERSHIP
            else []
        ),
    ]
