-- The authorising transaction of a hold, as a posting; raises hold_not_found. With both of its accounts locked and an
-- expired hold ended, so that what is read of the hold after it holds until the caller's posting.
create or replace function bank._authorised(hold_id bigint, ledger_id bigint) returns bank.posting
language plpgsql as $$
declare
    authorised bank.posting;
begin
    select * into authorised from bank.posting as p
    where p.ledger_id = _authorised.ledger_id
        and p.transaction_id = _authorised.hold_id
        and p.transaction_type = 'hold'
        and p.transaction_status = 'success';
    if not found then
        perform bank._raise('hold_not_found', jsonb_build_object(
            'field', 'hold_id', 'reason', 'does not exist', 'hold_id', hold_id
        ));
    end if;
    perform bank._lock_accounts(authorised.debit_account_id, authorised.credit_account_id, ledger_id);
    perform bank._end_expired_holds(authorised.debit_account_id, ledger_id);
    return authorised;
end
$$;
