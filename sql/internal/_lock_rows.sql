-- Locks an account as a whole, FOR NO KEY UPDATE: its own row, then all of its stripes in ascending order. It waits for
-- the postings in flight, and later ones wait for it.
create or replace function bank._lock_rows(account_id bigint, ledger_id bigint) returns void
language plpgsql as $$
begin
    perform from bank.account as a
    where a.ledger_id = _lock_rows.ledger_id and a.account_id = _lock_rows.account_id
    for no key update;
    perform from bank.account as a
    where a.ledger_id = _lock_rows.ledger_id
        and a.account_id between bank._stripe_id(_lock_rows.account_id, 0) and bank._stripe_id(_lock_rows.account_id, 63)
    order by a.account_id
    for no key update;
end
$$;
