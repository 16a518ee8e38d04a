-- The facts that go with a rejection, for its failure_detail.
create or replace function bank._rejection_facts(
    failure_code text,
    debit_account_id bigint,
    credit_account_id bigint,
    debit_status bank.account_status,
    debit_currency text,
    credit_currency text,
    debit_balance_minor bigint,
    debit_available_minor bigint,
    credit_balance_minor bigint,
    amount_minor bigint
) returns jsonb
language sql stable parallel safe as $$
    select case failure_code
        when 'same_account' then jsonb_build_object('account_id', debit_account_id)
        when 'account_closed' then jsonb_build_object(
            'account_id', case debit_status when 'closed' then debit_account_id else credit_account_id end
        )
        when 'account_frozen' then jsonb_build_object(
            'account_id', case when debit_status in ('frozen', 'debits_frozen') then debit_account_id else credit_account_id end
        )
        when 'currency_mismatch' then jsonb_build_object(
            'debit_currency', debit_currency, 'credit_currency', credit_currency
        )
        when 'insufficient_funds' then jsonb_build_object(
            'account_id', debit_account_id,
            'needed_minor', amount_minor, 'available_minor', debit_available_minor
        )
        when 'balance_overflow' then jsonb_build_object(
            'account_id', case
                when debit_balance_minor - amount_minor < -9007199254740991 then debit_account_id
                else credit_account_id
            end,
            'amount_minor', amount_minor
        )
    end
$$;
