-- One transaction of any number of debits and credits, all or nothing: fees, splits, payroll.
-- Leg n changes account_ids[n] by amounts_minor[n], in minor units: less than zero for a debit, more for a credit.
-- The legs of each currency sum to zero. An account may have several legs; it is judged by what it has after all of
-- them.
-- conditions: what must hold, as [{"account_id": 2, "balance_at_least_minor": 0, "balance_at_most_minor": 500,
-- "version": 7}]: bounds of the posted balance after the transaction, and the account's version before it, each
-- optional, 1,000 at most. A striped account has none: one stripe knows neither.
-- idempotency_key: a retry with the same key and the same arguments returns the first outcome with replayed true.
-- description, external_id and metadata are yours.
-- Returns the recorded transaction with its legs; debit_account_id and credit_account_id are of the first leg of either
-- side, amount_minor is the sum of all debits in the currency of the first. A rejection is a row with
-- transaction_status failure and a failure_code.
-- Locks: all accounts, in ascending account_id, then a stripe of each striped one, until the caller's transaction ends.
-- Errors raised, in this order: invalid_argument, account_not_found, account_striped, idempotency_key_reused,
-- sequence_behind.
-- Rejections recorded, in this order: account_closed, account_frozen, currency_mismatch, insufficient_funds,
-- balance_overflow, and the limits of the accounts: balance_below_minimum, balance_above_maximum,
-- transaction_limit_exceeded, then amount and count of day, week and month (day_amount_exceeded, ...),
-- condition_failed.
-- Example: select * from bank.post_legs(array[2, 3, 1], array[-1000, 970, 30], description => 'Sale with a fee');
create or replace function bank.post_legs(
    account_ids bigint[],
    amounts_minor numeric[],
    conditions jsonb default '[]',
    idempotency_key text default null,
    description text default null,
    external_id text default null,
    metadata jsonb default '{}',
    ledger_id bigint default 1
) returns bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    fault jsonb;
begin
    fault := bank._legs_fault(account_ids, amounts_minor, conditions);
    if fault is not null then
        perform bank._raise('invalid_argument', fault);
    end if;
    return bank._post_legs(
        'compound', account_ids, amounts_minor::bigint[], coalesce(conditions, '[]'),
        idempotency_key, description, external_id, metadata, ledger_id,
        request => jsonb_build_object('conditions', coalesce(conditions, '[]'))
    );
end
$$;

comment on function bank.post_legs is 'One transaction of any number of debits and credits, all or nothing';
