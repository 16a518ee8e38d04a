-- Gives a hold up: what is left of it is available again. Nothing is moved; also an account that is frozen may do so.
-- hold_id: the transaction_id of the authorisation.
-- idempotency_key: a retry with the same key and the same arguments returns the first outcome with replayed true.
-- description, external_id and metadata are yours.
-- Returns the recorded transaction; a rejection is a row with transaction_status failure and a failure_code.
-- Locks: both accounts of the hold, in ascending account_id, until the caller's transaction ends.
-- Errors raised, in this order: hold_not_found, invalid_argument, idempotency_key_reused, sequence_behind.
-- Rejections recorded: hold_not_open.
-- Example: select * from bank.void(2, idempotency_key => 'cancelled-1');
create or replace function bank.void(
    hold_id bigint,
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
    posted bank.posting;
begin
    select * into strict held from bank.hold as h where h.ledger_id = void.ledger_id and h.hold_id = void.hold_id;
    left_minor := case when held.hold_status = 'open' then greatest(held.amount_minor - held.captured_minor, 0) else 0 end;
    posted := bank._post_one(
        'void', authorised.debit_account_id, authorised.credit_account_id,
        coalesce(nullif(left_minor, 0), held.amount_minor),
        idempotency_key, description, external_id, metadata, ledger_id, hold_id,
        case when held.hold_status <> 'open' then 'hold_not_open' end,
        jsonb_build_object('hold_id', hold_id, 'hold_status', held.hold_status),
        left_minor
    );
    if posted.failure_code is null and not posted.replayed then
        update bank.hold as h
        set hold_status = 'voided', ended_at = posted.created_at
        where h.ledger_id = void.ledger_id and h.hold_id = void.hold_id;
    end if;
    return posted;
end
$$;

comment on function bank.void is 'Gives a hold up: what is left of it is available again';
