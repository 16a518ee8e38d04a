-- Opens a closed account again. Over HTTP only an administrator may.
-- reason, changed_by: for the account's history (bank.account_changes); changed_by null: the database's user.
-- Locks: the account, and its stripes if it has any, until the caller's transaction ends: postings in flight end
-- before, later ones find the new state.
-- Errors, in this order: invalid_argument, account_not_found, account_state (it is frozen).
-- Example: select * from bank.reopen_account(3, reason => 'came back');
create or replace function bank.reopen_account(
    account_id bigint,
    reason text default null,
    changed_by text default null,
    ledger_id bigint default 1
) returns bank.account_detail
language plpgsql security definer set search_path = bank, pg_temp as $$
begin
    return bank._set_status(account_id, 'open', '{closed}', 'reopen', reason, changed_by, ledger_id);
end
$$;

comment on function bank.reopen_account is 'Opens a closed account again';
