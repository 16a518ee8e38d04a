-- Raises the overdraft limit of an account to what a debit of this amount needs, if it needs more, and notes who did
-- so.
-- Locks: the account.
create or replace function bank._allow_overdraft(
    account_id bigint,
    amount_minor bigint,
    changed_by text,
    ledger_id bigint
) returns void
language plpgsql as $$
declare
    account bank.account;
    needed_minor bigint;
begin
    select * into account from bank.account as a
    where a.ledger_id = _allow_overdraft.ledger_id and a.account_id = _allow_overdraft.account_id and a.stripes = 0
    for no key update;
    if account.held_minor > 0 then
        account.held_minor := coalesce(bank._end_expired_holds(account_id, ledger_id), account.held_minor);
    end if;
    needed_minor := amount_minor - account.balance_minor + account.held_minor;
    if needed_minor > account.overdraft_limit_minor and needed_minor <= 9007199254740991 then
        update bank.account as a
        set overdraft_limit_minor = needed_minor
        where a.ledger_id = _allow_overdraft.ledger_id and a.account_id = _allow_overdraft.account_id;
        perform bank._note_change(
            account_id, 'overdraft_forced',
            jsonb_build_object('overdraft_limit_minor', account.overdraft_limit_minor),
            jsonb_build_object('overdraft_limit_minor', needed_minor),
            changed_by, null, ledger_id
        );
    end if;
end
$$;
