-- Moves money from one account to another.
-- amount_minor: minor units, a whole number from 1 to 9007199254740991. idempotency_key: a retry with the same key and
-- the same arguments returns the first outcome with replayed true. description, external_id and metadata are yours.
-- Returns the recorded transaction; a rejection is a row with transaction_status failure and a failure_code.
-- Locks: both accounts, in ascending account_id, until the caller's transaction ends.
-- Errors raised, in this order: invalid_amount, invalid_argument, account_not_found, idempotency_key_reused,
-- sequence_behind.
-- Rejections recorded, in this order: same_account, account_closed, account_frozen, currency_mismatch,
-- insufficient_funds, balance_overflow, and the limits of the accounts: balance_below_minimum, balance_above_maximum,
-- transaction_limit_exceeded, then amount and count of day, week and month (day_amount_exceeded, ...).
-- Example: select * from bank.transfer(2, 3, 500, idempotency_key => 'lunch-17', description => 'Lunch');
create or replace function bank.transfer(
    debit_account_id bigint,
    credit_account_id bigint,
    amount_minor numeric,
    idempotency_key text default null,
    description text default null,
    external_id text default null,
    metadata jsonb default '{}',
    ledger_id bigint default 1
) returns bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
begin
    return bank._post_one(
        'transfer', debit_account_id, credit_account_id, amount_minor,
        idempotency_key, description, external_id, metadata, ledger_id
    );
end
$$;

comment on function bank.transfer is 'Moves money from one account to another';
