-- The row of an item of a batch that is not recorded: without transaction_id, its error in failure_code and
-- failure_detail.
create or replace function bank._not_posted(
    transaction_type bank.transaction_type,
    debit_account_id bigint,
    credit_account_id bigint,
    amount_minor bigint,
    idempotency_key text,
    description text,
    external_id text,
    metadata jsonb,
    ledger_id bigint,
    failure_code text,
    failure_detail jsonb
) returns bank.posting
language sql stable as $$
    select row(
        null, transaction_type, 'failure', failure_code, failure_detail, amount_minor, null,
        debit_account_id, credit_account_id, null, null, null, null,
        idempotency_key, description, external_id, coalesce(metadata, '{}'), null, false, ledger_id,
        null, null, null, null, null
    )::bank.posting
$$;
