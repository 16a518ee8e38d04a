-- The principal of an API key, by the SHA-256 digest of the key; null when there is none or when it is no longer
-- valid. A caller learns ledger, scopes and expiry, never the digest.
-- Locks: none. Errors: none.
-- Example: select * from bank.authenticate(sha256('the key'));
create or replace function bank.authenticate(key_digest bytea) returns bank.principal
language sql stable security definer set search_path = bank, pg_temp as $$
    select p from bank.principals(array[key_digest]) as p
$$;

comment on function bank.authenticate is 'The ledger and scopes of an API key that is valid now';
