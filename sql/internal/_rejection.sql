-- The first rule that a posting would break, or null when it may be posted. The one place where this is decided: in
-- order of precedence, the debited account before the credited one.
-- debit_balance_minor: of the debited account what holds have not reserved: what they reserved keeps its room, at the
-- end of the exact range as in the available balance.
-- A single expression without a search_path of its own, so that the planner inlines it into the posting loop.
create or replace function bank._rejection(
    same_account boolean,
    debit_status bank.account_status,
    credit_status bank.account_status,
    debit_currency text,
    credit_currency text,
    debit_balance_minor bigint,
    debit_available_minor bigint, -- null: unlimited
    credit_balance_minor bigint,
    amount_minor bigint
) returns text
language sql immutable parallel safe as $$
    select case
        when same_account then 'same_account'
        when debit_status = 'closed' or credit_status = 'closed' then 'account_closed'
        when debit_status in ('frozen', 'debits_frozen') or credit_status in ('frozen', 'credits_frozen')
            then 'account_frozen'
        when debit_currency <> credit_currency then 'currency_mismatch'
        when debit_available_minor < amount_minor then 'insufficient_funds'
        when debit_balance_minor - amount_minor < -9007199254740991
            or credit_balance_minor + amount_minor > 9007199254740991 then 'balance_overflow'
    end
$$;
