-- Ends an API key for good; a second time changes nothing. Returns the key, or null when there is none.
create or replace function bank.revoke_api_key(api_key_id bigint) returns bank.principal
language plpgsql set search_path = bank, pg_temp as $$
declare
    result bank.principal;
begin
    update bank.api_key as k
    set revoked_at = coalesce(k.revoked_at, now())
    where k.api_key_id = revoke_api_key.api_key_id
    returning k.api_key_id, k.ledger_id, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at into result;
    return result;
end
$$;

comment on function bank.revoke_api_key is 'Ends an API key for good';
