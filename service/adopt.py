"""`pgteller migrate --adopt`: take over a bank that was restored without its owner, or where its roles are missing.

`pg_restore --no-owner --no-acl` leaves every object to whoever restored it, and functions open to everybody; so does a
restore on a server that has no bank_owner. The data stay as they are. The migration that follows grants anew.
"""

from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from service.prerequisites import ROLES, PrerequisiteError, facts_of, quoted, taking, version_fault
from service.watch import Watch

_LOCK_TIMEOUT = "10s"

# Each object of the schema whose owner is set by itself. Indexes, and sequences of identity columns, follow their
# table; row types their table or view.
_OBJECTS = """
select
    case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end
        as kind,
    c.oid::regclass::text as name,
    pg_get_userbyid(c.relowner)::text as owner
from pg_class as c
where
    c.relnamespace = to_regnamespace('bank') and c.relkind in ('r', 'p', 'v', 'm', 'S')
    and not exists (
        select from pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and c.relkind = 'S' and d.deptype in ('a', 'i')
    )
union all
select 'type', t.oid::regtype::text, pg_get_userbyid(t.typowner)::text
from pg_type as t
where
    t.typnamespace = to_regnamespace('bank') and t.typelem = 0
    and (t.typtype in ('e', 'd') or exists (
        select from pg_class as c where c.oid = t.typrelid and c.relkind = 'c'
    ))
union all
select 'routine', p.oid::regprocedure::text, pg_get_userbyid(p.proowner)::text
from pg_proc as p where p.pronamespace = to_regnamespace('bank')
union all
select 'schema', n.nspname::text, pg_get_userbyid(n.nspowner)::text
from pg_namespace as n where n.nspname = 'bank'
"""


def adopt(database_owner_url: str) -> int:
    """Make bank_owner own every object of schema bank; return how many belonged to others.

    To be followed by migrate(), which loads the functions and grants anew even where nothing else is to be done.
    Everything happens or nothing. Raises PrerequisiteError when there is no bank, or when an object belongs to a role
    that the connection's login may not act for.
    """
    with Watch(database_owner_url) as watch, watch.connect() as connection:
        fault = version_fault(connection.info.server_version)
        if fault is not None:
            raise PrerequisiteError(fault)
        facts = facts_of(connection)
        if not facts["has_bank"]:
            raise PrerequisiteError(
                f"there is no bank in database {facts['database']} to adopt: restore one first, or run `pgteller "
                "migrate` without --adopt"
            )
        with connection.transaction():
            connection.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
            _make_roles(connection, facts)
            return _take_over(connection, facts)


def _make_roles(connection: psycopg.Connection[Any], facts: dict[str, Any]) -> None:
    login = quoted(facts["login"])
    if facts["missing_roles"] and not (facts["rolsuper"] or facts["rolcreaterole"]):
        raise PrerequisiteError(
            f"{facts['login']} may not create the roles {', '.join(facts['missing_roles'])}; a superuser mends that "
            f"by: alter role {login} createrole"
        )
    for role in facts["missing_roles"]:
        connection.execute(sql.SQL("create role {} nologin").format(sql.Identifier(role)))
    if facts["rolsuper"]:
        return
    for role in ROLES[:2]:
        asked = [role, taking(connection.info.server_version)]
        if connection.execute("select pg_has_role(%s, %s)", asked).fetchone() != (True,):
            try:
                with connection.transaction():
                    connection.execute(sql.SQL("grant {} to current_user").format(sql.Identifier(role)))
            except psycopg.errors.InsufficientPrivilege:
                raise PrerequisiteError(
                    f"{facts['login']} may not take the role {role}, which another role has made for this server; that "
                    f"one or a superuser mends it by: grant {role} to {login}"
                ) from None


def _take_over(connection: psycopg.Connection[Any], facts: dict[str, Any]) -> int:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("set local search_path = pg_catalog")  # so that each name comes with its schema
        others = [row for row in cursor.execute(_OBJECTS).fetchall() if row["owner"] != "bank_owner"]
        owners = sorted({row["owner"] for row in others})
        foreign = [
            owner
            for owner in owners
            if cursor.execute("select pg_has_role(%s, 'usage') as may", [owner]).fetchall() != [{"may": True}]
        ]
        if foreign:
            of_them = [row for row in others if row["owner"] in foreign]
            has_superuser = cursor.execute(
                "select from pg_roles as r where r.rolname = any(%s) and r.rolsuper limit 1", [foreign]
            ).rowcount
            remedy = (
                # Nobody is made a superuser for this.
                f"let DATABASE_OWNER_URL be a superuser's for `pgteller migrate --adopt`, once; then {facts['login']} "
                f"migrates again, after: grant bank_owner to {quoted(facts['login'])}"
                if has_superuser
                else "run this as that role or a superuser, "
                f"or grant {', '.join(map(quoted, foreign))} to {quoted(facts['login'])}"
            )
            raise PrerequisiteError(
                f"{len(of_them)} objects of schema bank, such as {of_them[0]['kind']} {of_them[0]['name']}, belong to "
                f"{', '.join(foreign)}, for whom {facts['login']} may not act: {remedy}"
            )
        if any(row["kind"] == "schema" for row in others) and not facts["may_create_schema"]:
            raise PrerequisiteError(
                f"{facts['login']} may not give the schema away; the owner of the database or a superuser mends that "
                f"by: grant create on database {quoted(facts['database'])} to {quoted(facts['login'])}"
            )
        # The schema first: who is to own what is in it must be allowed to create there.
        for row in sorted(others, key=lambda row: row["kind"] != "schema"):
            cursor.execute(f"alter {row['kind']} {row['name']} owner to bank_owner")
        cursor.execute("set local role bank_owner")
        # Functions are loaded, and grants made, where another version of them is noted.
        cursor.execute("update bank.installation set sql_digest = 'adopted'")
    return len(others)
