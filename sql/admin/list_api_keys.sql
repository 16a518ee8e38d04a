-- All API keys, also expired and revoked ones, oldest first, without their digests.
create or replace function bank.list_api_keys() returns setof bank.principal
language sql stable set search_path = bank, pg_temp as $$
    select * from bank.principal as p order by p.api_key_id
$$;

comment on function bank.list_api_keys is 'All API keys, without their digests';
