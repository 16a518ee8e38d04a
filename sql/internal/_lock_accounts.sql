-- Locks two accounts, or one, as a posting between them would, so that what is read after it holds until the posting.
create or replace function bank._lock_accounts(
    account_id bigint,
    other_account_id bigint,
    ledger_id bigint
) returns void
language plpgsql as $$
begin
    perform from bank.account as a
    where a.ledger_id = _lock_accounts.ledger_id
        and a.account_id in (_lock_accounts.account_id, other_account_id)
        and a.stripes = 0
    order by a.account_id
    for no key update;
end
$$;
