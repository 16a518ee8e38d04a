"""What a login may do to a bank beyond what bank_app may, read from the catalogues of PostgreSQL alone."""

from typing import Any

import psycopg
from psycopg.rows import dict_row

# From this version on a membership says whether the role may be taken (SET); before, every membership allowed it.
_SET_OPTION = 160_000
# From this version on there is a right to lock, rewrite and reindex a table.
_MAINTAIN = 170_000

# The login itself, and each role that it can take by `set role`, or by granting it to itself first, and so on from
# there. Attributes such as superuser are not inherited; privileges on objects are, and has_..._privilege() knows of it.
#
# Not asked for, because it neither changes nor reads the bank: to create schemas or publications in the database, which
# an application with tables of its own may need; pg_create_subscription, whose subscriptions write with the rights of
# who owns them; pg_checkpoint, and what only reads statistics.
RIGHTS = """
with recursive login as (
    select r.oid from pg_roles as r where r.rolname = coalesce(%(login)s::text, session_user::text)
),
memberships as (
    select login.oid from login
    union
    select m.roleid from memberships join pg_auth_members as m on m.member = memberships.oid
),
takes as (
    select login.oid from login
    union
    select m.oid from takes, memberships as m
    where pg_has_role(takes.oid, m.oid, %(take)s) or pg_has_role(takes.oid, m.oid, 'member with admin option')
),
usable as (
    select
        r.*,
        r.oid = login.oid as is_login
    from takes inner join pg_roles as r on takes.oid = r.oid, login
),
relations as (
    select c.oid, c.relname, c.relkind, c.relowner from pg_class as c
    where c.relnamespace = to_regnamespace('bank') and c.relkind in ('r', 'p', 'v', 'm', 'S')
),
functions as (
    select p.oid, p.proname, p.proowner from pg_proc as p where p.pronamespace = to_regnamespace('bank')
),
objects as (
    select r.relname::text as name, r.relowner as owner from relations as r
    union
    select f.proname::text, f.proowner from functions as f
    union
    select t.typname::text, t.typowner from pg_type as t
    where t.typnamespace = to_regnamespace('bank') and t.typrelid = 0 and t.typcategory <> 'A'
)
select
    u.rolname::text as role,
    u.is_login,
    u.rolsuper,
    u.rolcreaterole,
    u.rolreplication,
    u.rolbypassrls,
    u.rolname = 'bank_owner'
    or coalesce(pg_has_role(u.oid, to_regrole('bank_owner'), 'usage'), false) as is_owner,
    (
        select pg_has_role(u.oid, d.datdba, 'usage') from pg_database as d where d.datname = current_database()
    ) as owns_database,
    coalesce(has_schema_privilege(u.oid, to_regnamespace('bank'), 'create'), false) as creates,
    array(
        select r.rolname::text from pg_roles as r
        where
            r.rolname in (
                'pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files', 'pg_signal_backend'
            )
            and pg_has_role(u.oid, r.oid, 'usage')
        order by 1
    ) as predefined,
    array(
        select r.rolname::text from pg_roles as r
        where
            r.rolname in ('bank_app', 'bank_reader')
            and r.oid <> u.oid  -- of itself each role had it before PostgreSQL 16, within its own session
            and pg_has_role(u.oid, r.oid, 'member with admin option')
        order by 1
    ) as grants_roles,
    coalesce(has_schema_privilege(u.oid, to_regnamespace('bank'), 'usage with grant option'), false)
    or exists (
        select from relations as t
        where t.relkind <> 'S' and has_any_column_privilege(u.oid, t.oid, 'select with grant option')
    )
    or exists (
        select from functions as f where has_function_privilege(u.oid, f.oid, 'execute with grant option')
    ) as grants,
    array(
        select p.parname from pg_parameter_acl as p
        where
            p.parname in (
                'allow_system_table_mods', 'dynamic_library_path', 'extension_control_path', 'ignore_checksum_failure',
                'session_preload_libraries', 'session_replication_role', 'zero_damaged_pages'
            )
            and has_parameter_privilege(u.oid, p.parname, 'set')
        order by 1
    ) as sets,
    array(
        select p.parname from pg_parameter_acl as p
        where has_parameter_privilege(u.oid, p.parname, 'alter system')
        order by 1
    ) as alters,
    array(select distinct o.name from objects as o where pg_has_role(u.oid, o.owner, 'usage') order by 1) as owns,
    array(
        select t.relname::text from relations as t
        where
            t.relkind in ('r', 'p', 'm')
            and case when %(maintain)s::text is not null then has_table_privilege(u.oid, t.oid, %(maintain)s::text) end
        order by 1
    ) as maintains,
    array(
        select t.relname::text from relations as t
        where
            t.relkind <> 'S'
            and (
                has_table_privilege(u.oid, t.oid, 'delete, truncate, trigger')
                or has_any_column_privilege(u.oid, t.oid, 'insert, update, references')
            )
        order by t.relkind, starts_with(t.relname::text, '_'), t.relname
    ) as writes,
    array(
        select t.relname::text from relations as t
        where
            t.relkind <> 'S'
            and has_any_column_privilege(u.oid, t.oid, 'select')
            and not has_any_column_privilege(to_regrole('bank_app'), t.oid, 'select')
        order by 1
    ) as reads,
    array(
        select t.relname::text from relations as t
        -- In this order whatever the planner thinks of it: the function refuses what is no sequence.
        where case when t.relkind = 'S' then has_sequence_privilege(u.oid, t.oid, 'usage, select, update') end
        order by 1
    ) as draws,
    array(
        select distinct f.proname::text from functions as f
        where
            has_function_privilege(u.oid, f.oid, 'execute')
            and not has_function_privilege(to_regrole('bank_app'), f.oid, 'execute')
        order by 1
    ) as calls
from usable as u
order by not u.is_login, u.rolname
"""

_ATTRIBUTES = {
    "rolsuper": "is a superuser",
    "is_owner": "is a member of bank_owner",
    "rolcreaterole": "may create roles",
    "rolreplication": "may replicate the whole server",
    "rolbypassrls": "passes row-level security",
    "owns_database": "owns the database",
    "creates": "may create objects in schema bank",
    "grants": "may grant rights in schema bank to others",
}
_PREDEFINED = {
    "pg_execute_server_program": "may run programs on the server",
    "pg_read_server_files": "may read files of the server",
    "pg_signal_backend": "may end the sessions of others",
    "pg_write_server_files": "may write files of the server",
}
_OBJECTS = {
    "grants_roles": "may grant {} to others",
    "sets": "may set {}",
    "alters": "may alter the configuration of the server: {}",
    "owns": "owns {} of schema bank",
    "writes": "may write to {} of schema bank",
    "reads": "may read {} of schema bank",
    "maintains": "may lock and rewrite {} of schema bank",
    "draws": "may use the sequences {} of schema bank",
    "calls": "may execute {} of schema bank",
}
_OBJECTS_NAMED_MAX = 3
_EVERYTHING = ("rolsuper", "is_owner")


def excess_rights(connection: psycopg.Connection[Any], login: str | None = None) -> list[str]:
    """Return what a login may do that bank_app may not, each as in `is a superuser`; [] is as it should be.

    login: a role; when not given, the one that the connection logged in as, whatever role it has taken since.
    Nothing is changed and no role is taken. Also right where no bank is installed, or the roles are missing.
    """
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("set local search_path = pg_catalog")  # not of whoever may create in public
        cursor.execute(RIGHTS, rights_parameters(connection.info.server_version, login))
        return excess_of(cursor.fetchall())


def rights_parameters(server_version: int, login: str | None = None) -> dict[str, str | None]:
    """Return what RIGHTS is asked with; login: session_user when not given."""
    return {
        "login": login,
        "take": "set" if server_version >= _SET_OPTION else "member",
        "maintain": "maintain" if server_version >= _MAINTAIN else None,
    }


def excess_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return what excess_rights() returns, of the rows of RIGHTS."""
    found: list[str] = []
    for row in rows:
        own: bool = row["is_login"]
        rights = _rights_of(row)
        if row["role"] == "bank_owner":
            # Inherited it is the login's own already.
            rights = [] if "is a member of bank_owner" in found else ["is a member of bank_owner"]
            own = True
        found += (
            rights
            if own
            else [f"may take the role {row['role']}, which {right}" for right in rights if right not in found]
        )
        if own and any(row[name] for name in _EVERYTHING):
            break  # the rest follows from it
    return found


def _rights_of(row: dict[str, Any]) -> list[str]:
    for name in _EVERYTHING:
        if row[name]:
            return [_ATTRIBUTES[name]]
    return [
        *(text for name, text in _ATTRIBUTES.items() if row[name]),
        *(_PREDEFINED[name] for name in row["predefined"]),
        *(text.format(_listed(row[name])) for name, text in _OBJECTS.items() if row[name]),
    ]


def _listed(names: list[str]) -> str:
    shown, rest = names[:_OBJECTS_NAMED_MAX], len(names) - _OBJECTS_NAMED_MAX
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
