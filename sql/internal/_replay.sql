-- The recorded outcome of a used idempotency key, marked as replayed, when the request is the same; raises
-- idempotency_key_reused when it is another.
create or replace function bank._replay(
    transaction_type bank.transaction_type,
    debit_account_id bigint,
    credit_account_id bigint,
    amount_minor bigint,
    idempotency_key text,
    description text,
    external_id text,
    metadata jsonb,
    ledger_id bigint,
    original_transaction_id bigint default null,
    legs jsonb default null
) returns bank.posting
language plpgsql as $$
declare
    recorded bank.posting := bank.find_transaction(idempotency_key, ledger_id);
    facts constant jsonb := bank._reuse_facts(
        recorded, transaction_type, debit_account_id, credit_account_id, amount_minor, description, external_id, metadata,
        original_transaction_id, legs
    );
begin
    if facts is not null then
        perform bank._raise('idempotency_key_reused', facts);
    end if;
    recorded.replayed := true;
    return recorded;
end
$$;
