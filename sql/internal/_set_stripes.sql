-- Spreads an account over this many stripes, 1 to 64. Balances and entries stay where they are: an account's balance is
-- the sum of its own row and of all the stripes that it ever had.
-- Locks: the account, then its stripes in ascending order; it waits for the postings in flight, later ones wait for it.
create or replace function bank._set_stripes(account_id bigint, stripes integer, ledger_id bigint) returns void
language plpgsql as $$
declare
    first_id constant bigint := bank._stripe_id(account_id, 0);
    last_id constant bigint := bank._stripe_id(account_id, 63);
begin
    perform bank._lock_rows(account_id, ledger_id);

    insert into bank.account (
        ledger_id, account_id, stripes, holder_name, currency, account_type, account_status, overdraft_limit_minor
    )
    select
        a.ledger_id, bank._stripe_id(a.account_id, n), -1,
        a.holder_name, a.currency, a.account_type, a.account_status, null
    from bank.account as a
    cross join generate_series(0, _set_stripes.stripes - 1) as n
    where a.ledger_id = _set_stripes.ledger_id and a.account_id = _set_stripes.account_id
    on conflict do nothing;

    update bank.account as a
    set stripes = case when a.account_id < first_id + _set_stripes.stripes then -1 else -2 end
    where a.ledger_id = _set_stripes.ledger_id and a.account_id between first_id and last_id;
    update bank.account as a
    set stripes = _set_stripes.stripes
    where a.ledger_id = _set_stripes.ledger_id and a.account_id = _set_stripes.account_id;
end
$$;
