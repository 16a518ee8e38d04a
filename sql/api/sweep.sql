-- Moves all that is available on an account to another, at most a given amount.
-- at_most_minor: minor units; null: no more than is available. What is held stays, and the overdraft is not used.
-- idempotency_key: a retry with the same key and the same arguments returns the first outcome with replayed true.
-- description, external_id and metadata are yours.
-- Returns the recorded transfer; a rejection is a row with transaction_status failure and a failure_code.
-- Locks: both accounts, in ascending account_id, until the caller's transaction ends.
-- Errors raised, in this order: invalid_amount, account_not_found, account_striped, invalid_argument,
-- idempotency_key_reused, sequence_behind.
-- Rejections recorded, in this order: nothing_to_sweep, and those of bank.transfer.
-- Example: select * from bank.sweep(2, 3, at_most_minor => 100000, idempotency_key => 'evening-2026-11-23');
create or replace function bank.sweep(
    debit_account_id bigint,
    credit_account_id bigint,
    at_most_minor numeric default null,
    idempotency_key text default null,
    description text default null,
    external_id text default null,
    metadata jsonb default '{}',
    ledger_id bigint default 1
) returns bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    most_minor constant bigint := case when at_most_minor is null then 9007199254740991 else bank._amount(at_most_minor, 'at_most_minor') end;
    account bank.account_detail;
    available_minor bigint;
begin
    perform bank._named_account(debit_account_id, 'debit_account_id', ledger_id);
    perform bank._named_account(credit_account_id, 'credit_account_id', ledger_id);
    perform bank._lock_accounts(debit_account_id, credit_account_id, ledger_id);
    -- What expired while we waited is free; the views know the time at which the caller's statement began.
    perform bank._end_expired_holds(debit_account_id, ledger_id);
    account := bank.account(debit_account_id, ledger_id);
    if account.stripes > 0 then
        perform bank._raise('account_striped', jsonb_build_object(
            'field', 'debit_account_id', 'reason', 'is striped', 'account_id', debit_account_id
        ));
    end if;
    available_minor := least(account.balance_minor - account.held_minor, most_minor);
    return bank._post_one(
        'transfer', debit_account_id, credit_account_id,
        case when available_minor > 0 then available_minor else most_minor end,
        idempotency_key, description, external_id, metadata, ledger_id, null,
        case when available_minor <= 0 then 'nothing_to_sweep' end,
        jsonb_build_object('account_id', debit_account_id, 'available_minor', available_minor),
        request => jsonb_build_object('at_most_minor', at_most_minor::bigint)
    );
end
$$;

comment on function bank.sweep is 'Moves all that is available on an account to another, at most a given amount';
