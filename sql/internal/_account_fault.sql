-- The facts about the first account that a posting lacks, under the argument name that its caller knows: `is required`
-- goes with invalid_argument, `does not exist` with account_not_found.
create or replace function bank._account_fault(
    transaction_type bank.transaction_type,
    debit_account_id bigint,
    credit_account_id bigint,
    debit_found boolean
) returns jsonb
language sql stable parallel safe as $$
    select jsonb_build_object(
        'field', lacking.field,
        'reason', case when lacking.account_id is null then 'is required' else 'does not exist' end,
        'account_id', lacking.account_id
    )
    from (
        values
        (1, transaction_type = 'credit', 'account_id', credit_account_id),
        (
            2, transaction_type in ('debit', 'hold') and (debit_account_id is null or not debit_found),
            'account_id', debit_account_id
        ),
        (3, transaction_type in ('debit', 'hold'), 'beneficiary_account_id', credit_account_id),
        (4, debit_account_id is null, 'debit_account_id', null),
        (5, credit_account_id is null, 'credit_account_id', null),
        (6, not debit_found, 'debit_account_id', debit_account_id),
        (7, true, 'credit_account_id', credit_account_id)
    ) as lacking (precedence, applies, field, account_id)
    where lacking.applies
    order by lacking.precedence
    limit 1
$$;
