-- Money comes into the bank: the account is credited, the settlement account of its currency is debited.
-- amount_minor: minor units, a whole number from 1 to 9007199254740991. idempotency_key: a retry with the same key and
-- the same arguments returns the first outcome with replayed true. description, external_id and metadata are yours.
-- Returns the recorded transaction; a rejection is a row with transaction_status failure and a failure_code.
-- Locks: both accounts, in ascending account_id, until the caller's transaction ends.
-- Errors raised, in this order: invalid_amount, invalid_argument, account_not_found, idempotency_key_reused,
-- sequence_behind.
-- Rejections recorded, in this order: same_account, account_closed, account_frozen, balance_overflow,
-- balance_above_maximum.
-- Example: select * from bank.credit(2, 12500, idempotency_key => 'salary-2026-11');
create or replace function bank.credit(
    account_id bigint,
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
        'credit', null, account_id, amount_minor, idempotency_key, description, external_id, metadata, ledger_id
    );
end
$$;

comment on function bank.credit is 'Moves money from outside the bank to an account';
