-- What is installed here, for a readiness probe: the service compares it with what it was built with.
-- Locks: none. Errors: none.
-- Example: select * from bank.health();
create or replace function bank.health() returns bank.installation
language sql stable security definer set search_path = bank, pg_temp as $$
    select i from bank.installation as i
$$;

comment on function bank.health is 'The installed migration and the digest of the installed sql/';
