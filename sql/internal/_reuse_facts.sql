-- The facts of idempotency_key_reused, or null when the request repeats the recorded one of its key.
-- request: the arguments that have no column (bank.transaction.request). What came of a question, such as the amount
-- that was left, is not compared: the same question has another answer by now.
-- legs: account_id and amount_minor of each. `field` is the argument as the caller knows it.
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
    legs jsonb default null,
    request jsonb default null
) returns jsonb
language plpgsql stable parallel safe as $$
declare
    asked_minor constant bigint := case
        when transaction_type = 'void' then null
        when legs is null and request ?| array['amount_minor', 'at_most_minor'] then (request ->> 'amount_minor')::bigint
        else amount_minor
    end;
    recorded_request constant jsonb := (
        select t.request from bank.transaction as t
        where t.ledger_id = recorded.ledger_id and t.transaction_id = recorded.transaction_id
    );
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
                -- bank.transfer_to_ledger names it only afterwards.
                when transaction_type <> 'cross_ledger'
                    and recorded.original_transaction_id is distinct from original_transaction_id
                    then case transaction_type when 'reversal' then 'transaction_id' else 'hold_id' end
                when recorded.debit_account_id <> debit_account_id
                    then case when transaction_type in ('debit', 'hold') then 'account_id' else 'debit_account_id' end
                when recorded.credit_account_id <> credit_account_id then case
                    when transaction_type = 'credit' then 'account_id'
                    when transaction_type in ('debit', 'hold') then 'beneficiary_account_id'
                    else 'credit_account_id'
                end
                when recorded.amount_minor <> asked_minor then 'amount_minor'
                when legs is distinct from (
                    select jsonb_agg(jsonb_build_object(
                        'account_id', leg -> 'account_id', 'amount_minor', leg -> 'amount_minor'
                    ) order by n)
                    from jsonb_array_elements(recorded.legs) with ordinality as recorded_leg (leg, n)
                ) then 'legs'
                when recorded.description is distinct from description collate "default" then 'description'
                when recorded.external_id is distinct from external_id collate "default" then 'external_id'
                when recorded.metadata <> coalesce(metadata, '{}') then 'metadata'
                -- A sweep is recorded as a transfer, and a transfer has no request.
                when recorded_request is not null and request is null then 'transaction_type'
                when recorded_request is not null then (
                    select member.key from jsonb_each(recorded_request) as member
                    where member.value is distinct from request -> member.key
                    limit 1
                )
                when request ? 'at_most_minor' and recorded.transaction_id >= (
                    select i.requests_recorded_from from bank.installation as i
                ) then 'transaction_type'
            end as field
        ) as difference
        where difference.field is not null
    );
end
$$;
