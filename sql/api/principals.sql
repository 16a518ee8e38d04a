-- The principals of many API keys, by the SHA-256 digests of the keys: a row for each of key_digests, in their order,
-- null where there is no such key or it is no longer valid. A caller learns ledger, scopes and expiry, never a digest.
-- Locks: none. Errors: none.
-- Example: select * from bank.principals(array[sha256('one key'), sha256('another')]);
create or replace function bank.principals(key_digests bytea[]) returns setof bank.principal
language sql stable security definer set search_path = bank, pg_temp as $$
    select valid.*
    from unnest(key_digests) with ordinality as given (key_digest, n)
    left join lateral (
        select p.*
        from bank.api_key as k
        inner join bank.principal as p on k.ledger_id = p.ledger_id and k.api_key_id = p.api_key_id
        where k.key_digest = given.key_digest
            and k.revoked_at is null
            and (k.expires_at is null or k.expires_at > clock_timestamp())
        order by k.api_key_id
        limit 1
    ) as valid on true
    order by given.n
$$;

comment on function bank.principals is 'The ledger and scopes of many API keys that are valid now';
