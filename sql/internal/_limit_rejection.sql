-- The first limit of the two accounts that a posting would pass, as {"failure_code": …, facts}, or null. It is asked
-- after bank._rejection, and only when one of the accounts has limits.
-- An account that is null is not looked at. debit_after_minor: what the debited account would have that is not held;
-- credit_after_minor: the other's balance.
-- Days, weeks (from Monday) and months are those of UTC. Captures were counted when they were authorised, and reversals
-- are not the holder's spending: for both only the limits of balances count.
create or replace function bank._limit_rejection(
    transaction_type bank.transaction_type,
    debit_account_id bigint,
    credit_account_id bigint,
    debit_after_minor bigint,
    credit_after_minor bigint,
    amount_minor bigint,
    posted_at timestamptz,
    ledger_id bigint
) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_strip_nulls(jsonb_build_object(
            'failure_code', passed.code,
            'account_id', l.account_id,
            'limit_minor', case when passed.code not like '%count%' then l.amount_max_minor end,
            'limit_count', case when passed.code like '%count%' then l.count_max end,
            'used_minor', case when passed.code like '%amount%' then used.minor end,
            'used_count', case when passed.code like '%count%' then used.count end
        ))
        from bank.account_limit as l
        cross join lateral (
            select
                case when l.window_started_at = bank._window_start(l.limit_kind, posted_at) then l.used_minor else 0 end as minor,
                case when l.window_started_at = bank._window_start(l.limit_kind, posted_at) then l.used_count else 0 end as count
        ) as used
        cross join lateral (
            select case l.limit_kind
                when 'minimum_balance' then case
                    when l.account_id = debit_account_id and debit_after_minor < l.amount_max_minor
                        then 'balance_below_minimum'
                end
                when 'maximum_balance' then case
                    when l.account_id = credit_account_id and credit_after_minor > l.amount_max_minor
                        then 'balance_above_maximum'
                end
                else case
                    when l.account_id is distinct from debit_account_id then null
                when transaction_type in ('capture', 'reversal') then null
                    when l.limit_kind = 'transaction' then case
                        when amount_minor > l.amount_max_minor then 'transaction_limit_exceeded'
                    end
                    when used.minor + amount_minor > l.amount_max_minor then l.limit_kind || '_amount_exceeded'
                    when used.count + 1 > l.count_max then l.limit_kind || '_count_exceeded'
                end
            end as code
        ) as passed
        where l.ledger_id = _limit_rejection.ledger_id
            and l.account_id in (debit_account_id, credit_account_id)
            and passed.code is not null
        order by l.limit_kind
        limit 1
    );
end
$$;
