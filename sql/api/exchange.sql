-- Moves money between accounts of two currencies at a given rate, through the ledger's liquidity accounts: one
-- transaction of four legs, so that each currency sums to zero.
-- amount_minor: what is debited, in minor units of that account's currency. rate: units of the credited account's
-- currency for one unit of the debited one's, exact, up to 1000 decimals. What is credited is amount x rate, cut
-- off to a whole number of minor units (never rounded up); exchange_residue_minor is what was cut off, less than one
-- minor unit, exact. The liquidity accounts keep it. Rate and residue are recorded.
-- idempotency_key: a retry with the same key and the same arguments returns the first outcome with replayed true.
-- description, external_id and metadata are yours.
-- Returns the recorded transaction with its legs; a rejection is a row with transaction_status failure and a
-- failure_code.
-- Locks: both accounts, in ascending account_id, then a stripe of each liquidity account, until the caller's
-- transaction ends.
-- Errors raised, in this order: invalid_amount, invalid_argument (the rate), account_not_found, invalid_argument (the
-- texts), idempotency_key_reused, sequence_behind.
-- Rejections recorded, in this order: same_currency, amount_too_small (or balance_overflow, when it is too large for
-- any account), account_closed, account_frozen, currency_mismatch, insufficient_funds, balance_overflow, and the limits
-- of the accounts: balance_below_minimum, balance_above_maximum, transaction_limit_exceeded, then amount and count of
-- day, week and month (day_amount_exceeded, ...).
-- Example: select * from bank.exchange(2, 5, 10000, 163.25, idempotency_key => 'holiday-money');
create or replace function bank.exchange(
    debit_account_id bigint,
    credit_account_id bigint,
    amount_minor numeric,
    rate numeric,
    idempotency_key text default null,
    description text default null,
    external_id text default null,
    metadata jsonb default '{}',
    ledger_id bigint default 1
) returns bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    amount constant bigint := bank._amount(amount_minor);
    debit_account bank.account_detail;
    credit_account bank.account_detail;
    exact_minor numeric;
    credited_minor bigint;
    prior_code text;
    prior_detail jsonb;
    posted bank.posting;
begin
    -- NaN and Infinity sort above every number.
    if (rate > 0 and rate < 1e18 and scale(trim_scale(rate)) <= 1000) is not true then
        perform bank._raise('invalid_argument', jsonb_build_object(
            'field', 'rate', 'reason', 'is not a number above zero and below 10^18 with at most 1000 decimals'
        ));
    end if;
    debit_account := bank._named_account(debit_account_id, 'debit_account_id', ledger_id);
    credit_account := bank._named_account(credit_account_id, 'credit_account_id', ledger_id);

    -- Products are exact to the last digit; quotients are not, nor are powers below one. trim_scale: the same rate is
    -- the same number of digits, whatever zeros it was written with.
    select trim_scale(amount * rate * format('1e%s', c.exponent - d.exponent)::numeric) into exact_minor
    from bank.currency as d, bank.currency as c
    where d.currency = debit_account.currency and c.currency = credit_account.currency;
    if debit_account.currency = credit_account.currency then
        prior_code := 'same_currency';
        prior_detail := jsonb_build_object('currency', debit_account.currency);
    elsif exact_minor < 1 or exact_minor >= 9007199254740992 then
        prior_code := case when exact_minor < 1 then 'amount_too_small' else 'balance_overflow' end;
        prior_detail := jsonb_build_object('rate', rate::text, 'amount_minor', amount);
    end if;
    -- The lower one is used first, whichever way the money goes: else two first exchanges would wait for each other.
    perform bank._book_account('liquidity', least(debit_account.currency, credit_account.currency), ledger_id);
    credited_minor := case when exact_minor >= 1 and exact_minor < 9007199254740992 then trunc(exact_minor) else 1 end;

    posted := bank._post_legs(
        'exchange',
        array[
            debit_account_id,
            credit_account_id,
            bank._book_account('liquidity', debit_account.currency, ledger_id),
            bank._book_account('liquidity', credit_account.currency, ledger_id)
        ],
        array[-amount, credited_minor, amount, -credited_minor],
        '[]', idempotency_key, description, external_id, metadata, ledger_id, null, prior_code, prior_detail,
        trim_scale(rate), case when prior_code is null then exact_minor - credited_minor end
    );
    if posted.replayed and posted.exchange_rate <> rate then
        perform bank._raise('idempotency_key_reused', jsonb_build_object(
            'field', 'rate',
            'reason', 'differs from the first request with this idempotency_key',
            'transaction_id', posted.transaction_id
        ));
    end if;
    return posted;
end
$$;

comment on function bank.exchange is 'Moves money between accounts of two currencies at a given rate';
