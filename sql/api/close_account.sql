-- Closes an account, with a balance of zero and without an open hold. Nothing is posted to it any more.
-- An account of the ledger itself (settlement, liquidity, clearing) stays open: others' postings go through it.
-- reason, changed_by: for the account's history (bank.account_changes); changed_by null: the database's user.
-- Locks: the account, and its stripes if it has any, until the caller's transaction ends: postings in flight end
-- before, later ones find the new state.
-- Errors, in this order: invalid_argument, account_not_found, book_account, account_not_empty.
-- Example: select * from bank.close_account(3, reason => 'left the bank');
create or replace function bank.close_account(
    account_id bigint,
    reason text default null,
    changed_by text default null,
    ledger_id bigint default 1
) returns bank.account_detail
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    fault constant jsonb := bank._change_fault(reason, changed_by);
    account bank.account_detail;
begin
    if fault is not null then
        perform bank._raise('invalid_argument', fault);
    end if;
    perform bank.account(account_id, ledger_id);
    if exists (
        select from bank.account as a
        where a.ledger_id = close_account.ledger_id
            and a.account_id = close_account.account_id
            and (a.settlement or a.liquidity or a.clearing)
    ) then
        perform bank._raise('book_account', jsonb_build_object(
            'field', 'account_id', 'reason', 'is an account of the ledger itself', 'account_id', account_id
        ));
    end if;
    perform bank._lock_rows(account_id, ledger_id);
    perform bank._end_expired_holds(account_id, ledger_id);
    account := bank.account(account_id, ledger_id);
    if account.balance_minor <> 0 or account.held_minor <> 0 then
        perform bank._raise('account_not_empty', jsonb_build_object(
            'field', 'account_id', 'reason', 'has a balance or a hold', 'account_id', account_id,
            'balance_minor', account.balance_minor, 'held_minor', account.held_minor
        ));
    end if;
    return bank._set_status(
        account_id, 'closed', '{open, frozen, debits_frozen, credits_frozen}', 'close', reason, changed_by, ledger_id
    );
end
$$;

comment on function bank.close_account is 'Closes an account that has a balance of zero and no open hold';
