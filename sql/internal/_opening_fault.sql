-- The first fault in what an account is to be opened with, as the facts of invalid_argument, or null.
create or replace function bank._opening_fault(
    holder_name text,
    currency text,
    overdraft_limit_minor numeric,
    external_id text,
    metadata jsonb,
    account_type text,
    idempotency_key text
) returns jsonb
language sql stable parallel safe as $$
    select case
        when holder_name is null then '{"field": "holder_name", "reason": "is required"}'
        when bank._text_fault(holder_name, 100) is not null
            then jsonb_build_object('field', 'holder_name', 'reason', bank._text_fault(holder_name, 100))
        when currency is null then '{"field": "currency", "reason": "is required"}'
        when overdraft_limit_minor not between 0 and 9007199254740991 or overdraft_limit_minor <> trunc(overdraft_limit_minor)
            then '{"field": "overdraft_limit_minor", "reason": "is not a whole number from 0 to 9007199254740991"}'
        when bank._text_fault(external_id, 255) is not null
            then jsonb_build_object('field', 'external_id', 'reason', bank._text_fault(external_id, 255))
        when bank._metadata_fault(metadata) is not null
            then jsonb_build_object('field', 'metadata', 'reason', bank._metadata_fault(metadata))
        when (account_type in ('asset', 'liability', 'equity', 'income', 'expense')) is not true
            then '{"field": "account_type", "reason": "is not asset, liability, equity, income or expense"}'
        when bank._text_fault(idempotency_key, 255) is not null
            then jsonb_build_object('field', 'idempotency_key', 'reason', bank._text_fault(idempotency_key, 255))
    end
$$;
