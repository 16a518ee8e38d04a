-- What is installed here, and which services work here: one whose last migration is not before breaking_migration_id,
-- and whose digest of sql/ is one of compatible_digests, with its last migration or a later one.
-- compatible_digests: of the versions that were installed, and have not been replaced by an earlier one.
-- compatible_migration_ids: the last migration that each of them was installed with. release: the version of pgteller.
-- Locks: none. Errors: none.
-- Example: select migration_id, sql_digest from bank.health();
create or replace function bank.health() returns table (
    migration_id text,
    sql_digest text,
    installed_at timestamptz,
    release text,
    compatible_digests text[],
    compatible_migration_ids text[],
    breaking_migration_id text
)
language sql stable security definer set search_path = bank, pg_temp as $$
    select
        i.migration_id,
        i.sql_digest,
        i.installed_at,
        (
            select v.release from bank.installed_version as v
            order by v.installation_number desc
            limit 1
        ),
        array(
            select v.sql_digest from bank.installed_version as v
            group by v.sql_digest
            order by v.sql_digest
        ),
        array(
            select max(v.migration_id collate "C") from bank.installed_version as v
            group by v.sql_digest
            order by v.sql_digest
        ),
        i.breaking_migration_id
    from bank.installation as i
$$;

comment on function bank.health is 'The installed migration, the digest of the installed sql/, and what works with it';
