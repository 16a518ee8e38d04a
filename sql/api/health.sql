-- What is installed here: a service that was built with sql_digest, or one of compatible_digests, works here.
-- compatible_digests: of earlier versions whose services may go on, and of this one. release: the version of pgteller.
-- Locks: none. Errors: none.
-- Example: select migration_id, sql_digest from bank.health();
create or replace function bank.health() returns table (
    migration_id text, sql_digest text, installed_at timestamptz, release text, compatible_digests text[]
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
        array(select distinct v.sql_digest from bank.installed_version as v)
    from bank.installation as i
$$;

comment on function bank.health is 'The installed migration, the digest of the installed sql/, and what works with it';
