-- The first limit of the two accounts that a posting would pass, as {"failure_code": ..., facts}, or null. It is asked
-- after bank._rejection, and only when one of the accounts has limits.
-- An account that is null is not looked at. debit_after_minor: what the debited account would have that is not held;
-- credit_after_minor: the other's balance.
-- amount_minor: what the limit of a single debit judges; null: nothing, as for a reversal, which is not the holder's
-- spending. window_minor, window_count: what counts in the windows. What a hold reserves counts when it is authorised;
-- of its captures only what is more than it reserved.
-- Days, weeks (from Monday) and months are those of UTC at posted_at, which is the clock's time.
create or replace function bank._limit_rejection(
    debit_account_id bigint,
    credit_account_id bigint,
    debit_after_minor bigint,
    credit_after_minor bigint,
    amount_minor bigint,
    window_minor bigint,
    window_count bigint,
    posted_at timestamptz,
    ledger_id bigint
) returns jsonb
language plpgsql stable as $$
begin
    return (
        select bank._limit_facts(
            passed.code, l.account_id, l.amount_max_minor, l.count_max, used.minor, used.count
        ) || jsonb_build_object('failure_code', passed.code)
        from bank.account_limit as l
        cross join lateral (
            select
                case when l.window_started_at = bank._window_start(l.limit_kind, posted_at) then l.used_minor else 0 end as minor,
                case when l.window_started_at = bank._window_start(l.limit_kind, posted_at) then l.used_count else 0 end as count
        ) as used
        cross join lateral (
            select bank._limit_code(
                l.limit_kind, l.amount_max_minor, l.count_max, used.minor, used.count,
                case l.account_id when debit_account_id then debit_after_minor end,
                case l.account_id when credit_account_id then credit_after_minor end,
                case l.account_id when debit_account_id then amount_minor end,
                case l.account_id when debit_account_id then window_minor end,
                case l.account_id when debit_account_id then window_count end
            ) as code
        ) as passed
        where l.ledger_id = _limit_rejection.ledger_id
            and l.account_id in (debit_account_id, credit_account_id)
            and passed.code is not null
        order by l.limit_kind
        limit 1
    );
end
$$;
