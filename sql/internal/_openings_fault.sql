-- What is wrong with the arrays of bank.open_accounts, as the facts of invalid_argument, or null. An optional array may
-- be null.
create or replace function bank._openings_fault(
    holder_names text[],
    currencies text[],
    overdraft_limits_minor numeric[],
    external_ids text[],
    metadatas jsonb[],
    account_types text[],
    idempotency_keys text[]
) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_build_object('field', checked.field, 'reason', checked.reason)
        from (select coalesce(cardinality(holder_names), 0) as item_count) as batch
        cross join lateral (
            values
            ('holder_names', case when batch.item_count not between 1 and 10000 then 'has not from 1 to 10000 items' end),
            ('holder_names', bank._array_fault(holder_names, batch.item_count, 'holder_names')),
            ('currencies', bank._array_fault(currencies, batch.item_count, 'holder_names')),
            ('overdraft_limits_minor', case
                when overdraft_limits_minor is not null
                    then bank._array_fault(overdraft_limits_minor, batch.item_count, 'holder_names')
            end),
            ('external_ids', case
                when external_ids is not null then bank._array_fault(external_ids, batch.item_count, 'holder_names')
            end),
            ('metadatas', case
                when metadatas is not null then bank._array_fault(metadatas, batch.item_count, 'holder_names')
            end),
            ('account_types', case
                when account_types is not null then bank._array_fault(account_types, batch.item_count, 'holder_names')
            end),
            ('idempotency_keys', case
                when idempotency_keys is not null then bank._array_fault(idempotency_keys, batch.item_count, 'holder_names')
            end)
        ) as checked (field, reason)
        where checked.reason is not null
        limit 1
    );
end
$$;
