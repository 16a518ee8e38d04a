-- What bank.transfer would do now: every check in its order, the limits that count, the verdict, and the balances
-- after. It is asked of bank.transfer itself, whose work is taken back, so that the answer is the one that the
-- posting would give; nothing is recorded.
-- checks: [{"code": "same_account", "outcome": "passed"}, ...], outcome passed, failed, or not_reached after the failed
-- one.
-- Locks: both accounts, in ascending account_id, until it returns.
-- Errors raised, in this order: invalid_amount, invalid_argument, account_not_found, sequence_behind.
-- Example: select * from bank.explain_transfer(2, 3, 500);
create or replace function bank.explain_transfer(
    debit_account_id bigint,
    credit_account_id bigint,
    amount_minor numeric,
    ledger_id bigint default 1
) returns table (
    verdict bank.transaction_status,
    failure_code text,
    failure_detail jsonb,
    currency text,
    debit_available_minor bigint,
    debit_balance_after_minor bigint,
    credit_balance_after_minor bigint,
    checks jsonb,
    limits jsonb
)
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    posted bank.posting;
begin
    begin
        posted := bank.transfer(debit_account_id, credit_account_id, amount_minor, ledger_id => ledger_id);
        raise exception using errcode = 'TLUND';
    exception
        when sqlstate 'TLUND' then null;
    end;
    return query
    select
        posted.transaction_status,
        posted.failure_code,
        posted.failure_detail,
        posted.currency,
        (bank.balance(debit_account_id, ledger_id)).available_balance_minor,
        posted.debit_balance_after_minor,
        posted.credit_balance_after_minor,
        (
            select jsonb_agg(jsonb_build_object('code', e.code, 'outcome', case
                when e.precedence < failed.precedence or failed.precedence is null then 'passed'
                when e.code = posted.failure_code then 'failed'
                else 'not_reached'
            end) order by e.precedence)
            from bank.error as e
            left join bank.error as failed on failed.code = posted.failure_code
            where e.kind = 'rejection'
                and e.precedence between
                (select x.precedence from bank.error as x where x.code = 'same_account')
                and (select x.precedence from bank.error as x where x.code = 'month_count_exceeded')
        ),
        (
            select coalesce(jsonb_agg(to_jsonb(l) - 'ledger_id' order by l.account_id, l.limit_kind), '[]')
            from bank.limit_detail as l
            where l.ledger_id = explain_transfer.ledger_id
                and l.account_id in (explain_transfer.debit_account_id, explain_transfer.credit_account_id)
        );
end
$$;

comment on function bank.explain_transfer is 'What bank.transfer would do now, without doing it';
