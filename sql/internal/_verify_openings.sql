-- An idempotency key of an opening leads to the account that it opened: for the keys after after_key up to last_key.
-- Null: from the first, to the last.
create or replace function bank._verify_openings(
    only_ledger_id bigint,
    after_key text,
    last_key text
) returns setof bank._violation
language plpgsql stable set plan_cache_mode = force_custom_plan as $$
begin
    return query
    select
        'opening_without_account', o.ledger_id, o.account_id, null::bigint, null::bigint,
        jsonb_build_object('idempotency_key', o.idempotency_key)
    from bank.opening as o
    where (only_ledger_id is null or o.ledger_id = only_ledger_id)
        and (after_key is null or o.idempotency_key > after_key)
        and (last_key is null or o.idempotency_key <= last_key)
        and not exists (
            select from bank.account as a
            where a.ledger_id = o.ledger_id and a.account_id = o.account_id
        );
end
$$;
