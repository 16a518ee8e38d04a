-- Stops postings to an account: those that take from it, those that put in, or both. Holds stay; they are not captured
-- while debits are frozen, but may be given up, and expire.
-- debits, credits: what is stopped; what was stopped before and is false here is no longer stopped.
-- reason, changed_by: for the account's history (bank.account_changes); changed_by null: the database's user.
-- Locks: the account, and its stripes if it has any, until the caller's transaction ends: postings in flight end
-- before, later ones find the new state.
-- Errors, in this order: invalid_argument, account_not_found, account_state (it is closed).
-- Example: select * from bank.freeze_account(2, credits => false, reason => 'card lost');
create or replace function bank.freeze_account(
    account_id bigint,
    debits boolean default true,
    credits boolean default true,
    reason text default null,
    changed_by text default null,
    ledger_id bigint default 1
) returns bank.account_detail
language plpgsql security definer set search_path = bank, pg_temp as $$
begin
    if (debits or credits) is not true then
        perform bank._raise('invalid_argument', '{"field": "debits", "reason": "and credits are both not true"}');
    end if;
    return bank._set_status(
        account_id,
        case
            when debits and credits then 'frozen' when debits then 'debits_frozen' else 'credits_frozen'
        end::bank.account_status,
        '{open, frozen, debits_frozen, credits_frozen}', 'freeze', reason, changed_by, ledger_id
    );
end
$$;

comment on function bank.freeze_account is 'Stops debits of an account, credits to it, or both';
