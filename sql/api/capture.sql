-- Moves money that a hold reserved to the hold's beneficiary: all that is left of it, or a part.
-- A hold may be captured several times. It ends when its whole amount is captured, or with a final capture: what is
-- left is available again.
-- The limit of a single debit judges each capture. What is captured beyond the amount of the hold counts in the limits
-- of day, week and month now; the hold itself counted, as one debit, when it was authorised.
-- hold_id: the transaction_id of the authorisation. amount_minor: minor units; null: all that is left. More than is
-- left can be captured within the tolerance that was stated at the authorisation.
-- idempotency_key: a retry with the same key and the same arguments returns the first outcome with replayed true.
-- description, external_id and metadata are yours.
-- Returns the recorded transaction; a rejection is a row with transaction_status failure and a failure_code, and leaves
-- the hold as it is.
-- Locks: both accounts of the hold, in ascending account_id, until the caller's transaction ends.
-- Errors raised, in this order: hold_not_found, invalid_amount, invalid_argument, idempotency_key_reused,
-- sequence_behind.
-- Rejections recorded, in this order: hold_not_open, capture_exceeds_hold,
-- same_account, account_closed, account_frozen, currency_mismatch,
-- insufficient_funds, balance_overflow, and the limits of the accounts: balance_below_minimum, balance_above_maximum,
-- transaction_limit_exceeded, then the amount of day, week and month (day_amount_exceeded, ...).
-- Example: select * from bank.capture(2, 2000, idempotency_key => 'shipment-1');
create or replace function bank.capture(
    hold_id bigint,
    amount_minor numeric default null,
    final boolean default false,
    idempotency_key text default null,
    description text default null,
    external_id text default null,
    metadata jsonb default '{}',
    ledger_id bigint default 1
) returns bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    authorised constant bank.posting := bank._authorised(hold_id, ledger_id);
    held bank.hold;
    left_minor bigint;
    captured_minor bigint;
    ends boolean;
    prior_code text;
    prior_detail jsonb;
    posted bank.posting;
begin
    select * into strict held from bank.hold as h where h.ledger_id = capture.ledger_id and h.hold_id = capture.hold_id;
    left_minor := greatest(held.amount_minor - held.captured_minor, 0);
    captured_minor := case
        when amount_minor is not null then bank._amount(amount_minor)
        else coalesce(nullif(left_minor, 0), held.amount_minor)
    end;
    ends := coalesce(final, false) or held.captured_minor + captured_minor >= held.amount_minor;
    if held.hold_status <> 'open' then
        prior_code := 'hold_not_open';
        prior_detail := jsonb_build_object('hold_id', hold_id, 'hold_status', held.hold_status);
    elsif held.captured_minor + captured_minor > held.amount_minor + held.tolerance_minor then
        prior_code := 'capture_exceeds_hold';
        prior_detail := jsonb_build_object(
            'hold_id', hold_id, 'left_minor', left_minor, 'tolerance_minor', held.tolerance_minor
        );
    end if;

    posted := bank._post_one(
        'capture', authorised.debit_account_id, authorised.credit_account_id, captured_minor,
        idempotency_key, description, external_id, metadata, ledger_id, hold_id, prior_code, prior_detail,
        case when prior_code is not null then 0 when ends then left_minor else captured_minor end,
        request => jsonb_build_object('amount_minor', amount_minor::bigint, 'final', coalesce(final, false))
    );
    if posted.failure_code is null and not posted.replayed then
        update bank.hold as h
        set captured_minor = h.captured_minor + posted.amount_minor,
            hold_status = case when ends then 'captured' else h.hold_status end,
            ended_at = case when ends then posted.created_at end
        where h.ledger_id = capture.ledger_id and h.hold_id = capture.hold_id;
    end if;
    return posted;
end
$$;

comment on function bank.capture is 'Moves what a hold reserved, in full or in part, to its beneficiary';
