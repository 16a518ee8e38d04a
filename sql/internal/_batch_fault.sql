-- What is wrong with the arrays of a batch, as the facts of invalid_argument, or null. An optional array may be null.
create or replace function bank._batch_fault(
    transaction_types text[],
    debit_account_ids bigint[],
    credit_account_ids bigint[],
    amounts_minor bigint[],
    idempotency_keys text[],
    descriptions text[],
    external_ids text[],
    metadatas jsonb[],
    groups integer[]
) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_build_object('field', checked.field, 'reason', checked.reason)
        from (select coalesce(cardinality(amounts_minor), 0) as item_count) as batch
        cross join lateral (
            values
            ('amounts_minor', case when batch.item_count not between 1 and 10000 then 'has not from 1 to 10000 items' end),
            ('amounts_minor', bank._array_fault(amounts_minor, batch.item_count)),
            ('transaction_types', coalesce(
                bank._array_fault(transaction_types, batch.item_count),
                case
                    when array_position(transaction_types, null) is not null
                        or not transaction_types <@ array['credit', 'debit', 'transfer']
                        then 'is not credit, debit or transfer everywhere'
                end
            )),
            ('debit_account_ids', bank._array_fault(debit_account_ids, batch.item_count)),
            ('credit_account_ids', bank._array_fault(credit_account_ids, batch.item_count)),
            ('idempotency_keys', case
                when idempotency_keys is not null then bank._array_fault(idempotency_keys, batch.item_count)
            end),
            ('descriptions', case when descriptions is not null then bank._array_fault(descriptions, batch.item_count) end),
            ('external_ids', case when external_ids is not null then bank._array_fault(external_ids, batch.item_count) end),
            ('metadatas', case when metadatas is not null then bank._array_fault(metadatas, batch.item_count) end),
            ('groups', case when groups is not null then bank._array_fault(groups, batch.item_count) end)
        ) as checked (field, reason)
        where checked.reason is not null
        limit 1
    );
end
$$;
