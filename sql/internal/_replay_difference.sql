-- The first field in which a request differs from the recorded one of its idempotency key, or null when it is a retry.
create or replace function bank._replay_difference(
    recorded bank.posting,
    transaction_type bank.transaction_type,
    debit_account_id bigint,
    credit_account_id bigint,
    amount_minor bigint,
    description text,
    external_id text,
    metadata jsonb
) returns text
language sql immutable parallel safe as $$
    select case
        when recorded.transaction_type <> transaction_type then 'transaction_type'
        when recorded.debit_account_id <> debit_account_id then 'debit_account_id'
        when recorded.credit_account_id <> credit_account_id then 'credit_account_id'
        when recorded.amount_minor <> amount_minor then 'amount_minor'
        when recorded.description is distinct from description then 'description'
        when recorded.external_id is distinct from external_id then 'external_id'
        when recorded.metadata <> coalesce(metadata, '{}') then 'metadata'
    end
$$;
