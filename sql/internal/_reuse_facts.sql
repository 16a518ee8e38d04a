-- The facts of idempotency_key_reused, or null when the request repeats the recorded one of its key.
create or replace function bank._reuse_facts(
    recorded bank.posting,
    transaction_type bank.transaction_type,
    debit_account_id bigint,
    credit_account_id bigint,
    amount_minor bigint,
    description text,
    external_id text,
    metadata jsonb
) returns jsonb
language sql stable parallel safe as $$
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
            when recorded.description is distinct from description then 'description'
            when recorded.external_id is distinct from external_id then 'external_id'
            when recorded.metadata <> coalesce(metadata, '{}') then 'metadata'
        end as field
    ) as difference
    where difference.field is not null
$$;
