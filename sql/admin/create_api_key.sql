-- Records a new API key by the SHA-256 digest of it; the key itself never comes here.
-- expires_at: null: never. It is a time that every client can read back, in whatever time zone: Python's end with the
-- year 9999.
-- Errors: invalid_argument (expires_at); constraint violations (a blank name, an unknown scope, an unknown ledger).
create or replace function bank.create_api_key(
    name text,
    key_digest bytea,
    scopes text[],
    expires_at timestamptz default null,
    ledger_id bigint default 1
) returns bank.principal
language plpgsql set search_path = bank, pg_temp as $$
declare
    result bank.principal;
begin
    if expires_at not between '0001-01-03 00:00:00+00' and '9999-12-29 00:00:00+00' then
        perform bank._raise('invalid_argument', jsonb_build_object(
            'field', 'expires_at', 'reason', 'is not in the years 1 to 9999; null is for never'
        ));
    end if;

    insert into bank.api_key as k (ledger_id, name, key_digest, scopes, expires_at)
    values (ledger_id, name, key_digest, scopes, expires_at)
    returning k.api_key_id, k.ledger_id, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at into result;
    return result;
end
$$;

comment on function bank.create_api_key is 'Records a new API key by its digest';
