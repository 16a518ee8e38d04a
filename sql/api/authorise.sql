-- Reserves money of an account: it stays there, but is no longer available. The first phase of a payment in two.
-- The hold is named by the transaction_id that this returns. It ends by captures (bank.capture), by being given up
-- (bank.void), or at its deadline: from that moment it no longer counts.
-- amount_minor: minor units, a whole number from 1 to 9007199254740991. beneficiary_account_id: where captures will
-- move the money; null: out of the bank. tolerance_minor: how much more than the amount may be captured in all.
-- expires_at: the deadline, before the year 9999; null: none.
-- idempotency_key: a retry with the same key and the same arguments returns the first outcome with replayed true.
-- description, external_id and metadata are yours.
-- Returns the recorded transaction; a rejection is a row with transaction_status failure and a failure_code.
-- Locks: both accounts, in ascending account_id, until the caller's transaction ends.
-- Errors raised, in this order: invalid_argument (tolerance_minor, expires_at), invalid_amount, invalid_argument (the
-- texts), account_not_found, account_striped, idempotency_key_reused, sequence_behind.
-- Rejections recorded, in this order: same_account, account_closed, account_frozen, currency_mismatch,
-- insufficient_funds, balance_overflow, and the limits of the accounts: balance_below_minimum, balance_above_maximum,
-- transaction_limit_exceeded, then amount and count of day, week and month (day_amount_exceeded, ...).
-- Example: select * from bank.authorise(2, 5000, beneficiary_account_id => 3, expires_at => now() + interval '7 days');
create or replace function bank.authorise(
    account_id bigint,
    amount_minor numeric,
    beneficiary_account_id bigint default null,
    tolerance_minor numeric default 0,
    expires_at timestamptz default null,
    idempotency_key text default null,
    description text default null,
    external_id text default null,
    metadata jsonb default '{}',
    ledger_id bigint default 1
) returns bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    posted bank.posting;
begin
    if (tolerance_minor between 0 and 9007199254740991 and tolerance_minor = trunc(tolerance_minor)) is not true then
        perform bank._raise('invalid_argument', jsonb_build_object(
            'field', 'tolerance_minor', 'reason', 'is not a whole number from 0 to 9007199254740991'
        ));
    elsif not isfinite(expires_at) then
        perform bank._raise('invalid_argument', jsonb_build_object('field', 'expires_at', 'reason', 'is not a time'));
    -- Clients may have no later year than 9999, in whatever time zone they show it.
    -- A retry may come after the deadline, or from before that year was refused, and gets its first outcome.
    elsif (expires_at <= clock_timestamp() or expires_at >= '9999-01-01 00:00:00+00') and not exists (
        select from bank.transaction as t
        where t.ledger_id = authorise.ledger_id and t.idempotency_key = authorise.idempotency_key collate "default"
    ) then
        perform bank._raise('invalid_argument', jsonb_build_object(
            'field', 'expires_at',
            'reason', case when expires_at <= clock_timestamp() then 'is not in the future' else 'is not before the year 9999' end
        ));
    end if;

    posted := bank._post_one(
        'hold', account_id, beneficiary_account_id, amount_minor,
        idempotency_key, description, external_id, metadata, ledger_id,
        request => jsonb_build_object(
            'tolerance_minor', tolerance_minor::bigint, 'expires_at', expires_at at time zone 'UTC'
        )
    );
    if posted.failure_code is null and not posted.replayed then
        insert into bank.hold (ledger_id, hold_id, account_id, amount_minor, tolerance_minor, expires_at)
        values (ledger_id, posted.transaction_id, account_id, posted.amount_minor, tolerance_minor, expires_at);
    end if;
    return posted;
end
$$;

comment on function bank.authorise is
'Reserves money of an account until it is captured, given up, or expired';
