-- The rule of one limit: the code of the rejection when a posting would pass it, or null. The one place where this is
-- decided; a null stands for what the posting does not do to the limit's account.
-- debit_after_minor: what the account would have that is not held. credit_after_minor: its balance.
-- amount_minor: what is debited. window_minor, window_count: what of it counts in the day, week and month, where
-- used_minor and used_count were used before.
-- A single expression, so that the planner inlines it.
create or replace function bank._limit_code(
    limit_kind bank.limit_kind,
    amount_max_minor bigint,
    count_max bigint,
    used_minor numeric,
    used_count bigint,
    debit_after_minor bigint,
    credit_after_minor bigint,
    amount_minor bigint,
    window_minor bigint,
    window_count bigint
) returns text
language sql stable parallel safe as $$
    select case limit_kind
        when 'minimum_balance' then case when debit_after_minor < amount_max_minor then 'balance_below_minimum' end
        when 'maximum_balance' then case when credit_after_minor > amount_max_minor then 'balance_above_maximum' end
        when 'transaction' then case when amount_minor > amount_max_minor then 'transaction_limit_exceeded' end
        else case
            when window_minor > 0 and used_minor + window_minor > amount_max_minor then limit_kind || '_amount_exceeded'
            when window_count > 0 and used_count + window_count > count_max then limit_kind || '_count_exceeded'
        end
    end
$$;
