-- The facts of idempotency_key_reused, or null when the request repeats the recorded one of its key.
create or replace function bank._reuse_facts(
    recorded bank.posting,
    transaction_type bank.transaction_type,
    debit_account_id bigint,
    credit_account_id bigint,
    amount_minor bigint,
    description text,
    external_id text,
    metadata jsonb,
    original_transaction_id bigint default null,
    legs jsonb default null -- account_id and amount_minor of each
) returns jsonb
language plpgsql stable parallel safe as $$
begin
    return (
        select jsonb_build_object(
            'field', difference.field,
            'reason', 'differs from the first request with this idempotency_key',
            'transaction_id', recorded.transaction_id
        )
        from (
            select case
                when recorded.transaction_type <> transaction_type then 'transaction_type'
                when recorded.debit_account_id <> debit_account_id then 'debit_account_id'
                when recorded.credit_account_id <> credit_account_id then 'credit_account_id'
                when recorded.amount_minor <> amount_minor then 'amount_minor'
                -- bank.transfer_to_ledger names it only afterwards, and compares the other side itself.
                when recorded.transaction_type <> 'cross_ledger'
                    and recorded.original_transaction_id is distinct from original_transaction_id
                    then 'original_transaction_id'
                when legs is distinct from (
                    select jsonb_agg(jsonb_build_object(
                        'account_id', leg -> 'account_id', 'amount_minor', leg -> 'amount_minor'
                    ) order by n)
                    from jsonb_array_elements(recorded.legs) with ordinality as recorded_leg (leg, n)
                ) then 'legs'
                when recorded.description is distinct from description then 'description'
                when recorded.external_id is distinct from external_id then 'external_id'
                when recorded.metadata <> coalesce(metadata, '{}') then 'metadata'
            end as field
        ) as difference
        where difference.field is not null
    );
end
$$;
