-- Brings an account with all of its stripes into a state, and notes who did so. Does nothing when it is in it already.
-- Raises invalid_argument, account_not_found, account_state when the account is not in one of the states it may leave.
-- Locks: the account, then its stripes: postings in flight end before, later ones find the new state.
create or replace function bank._set_status(
    account_id bigint,
    account_status bank.account_status,
    leaves bank.account_status[],
    change_type text,
    reason text,
    changed_by text,
    ledger_id bigint
) returns bank.account_detail
language plpgsql as $$
declare
    fault constant jsonb := bank._change_fault(reason, changed_by);
    before bank.account_status;
begin
    if fault is not null then
        perform bank._raise('invalid_argument', fault);
    end if;
    perform bank.account(account_id, ledger_id);
    perform bank._lock_rows(account_id, ledger_id);
    select a.account_status into before from bank.account as a
    where a.ledger_id = _set_status.ledger_id and a.account_id = _set_status.account_id;
    if before = account_status then
        return bank.account(account_id, ledger_id);
    end if;
    if before <> all(leaves) then
        perform bank._raise('account_state', jsonb_build_object(
            'field', 'account_id', 'reason', format('is %s', before), 'account_id', account_id, 'account_status', before
        ));
    end if;
    update bank.account as a
    set account_status = _set_status.account_status
    where a.ledger_id = _set_status.ledger_id and a.account_id = _set_status.account_id;
    update bank.account as a
    set account_status = _set_status.account_status
    where a.ledger_id = _set_status.ledger_id
        and a.account_id between bank._stripe_id(_set_status.account_id, 0) and bank._stripe_id(_set_status.account_id, 63);
    perform bank._note_change(
        account_id, change_type,
        jsonb_build_object('account_status', before), jsonb_build_object('account_status', account_status),
        changed_by, reason, ledger_id
    );
    return bank.account(account_id, ledger_id);
end
$$;
