-- bank._post_one for an item of a batch: what it would raise is a row without transaction_id.
-- rejected: an outcome that was found before and is to be recorded as it was; null: decide.
create or replace function bank._post_or_explain(
    transaction_type bank.transaction_type,
    debit_account_id bigint,
    credit_account_id bigint,
    amount_minor bigint,
    idempotency_key text,
    description text,
    external_id text,
    metadata jsonb,
    ledger_id bigint,
    rejected bank.posting
) returns bank.posting
language plpgsql as $$
declare
    code text;
    facts text;
begin
    return bank._post_one(
        transaction_type, debit_account_id, credit_account_id, amount_minor,
        idempotency_key, description, external_id, metadata, ledger_id,
        null, rejected.failure_code, rejected.failure_detail
    );
exception
    when others then
        if sqlstate not like 'TL%' then
            raise;
        end if;
        get stacked diagnostics code = message_text, facts = pg_exception_detail;
        return bank._not_posted(
            transaction_type, debit_account_id, credit_account_id, amount_minor,
            idempotency_key, description, external_id, metadata, ledger_id, code, facts::jsonb
        );
end
$$;
