-- The facts of idempotency_key_reused, or null when the request repeats the one with which the key opened the account.
create or replace function bank._opening_reuse_facts(recorded jsonb, request jsonb, account_id bigint) returns jsonb
language plpgsql stable parallel safe as $$
begin
    return (
        select jsonb_build_object(
            'field', argument.field,
            'reason', 'differs from the first request with this idempotency_key',
            'account_id', account_id
        )
        from unnest(array[
            'holder_name', 'currency', 'overdraft_limit_minor', 'external_id', 'metadata', 'account_type'
        ]) with ordinality as argument (field, n)
        where recorded -> argument.field is distinct from request -> argument.field
        order by argument.n
        limit 1
    );
end
$$;
