-- The balances of many accounts at one moment, in minor units: a row as bank.balance returns it for each of account_ids
-- that exists, once, in no order. An account that does not exist has no row.
-- Locks: none; it reads what is committed and never waits for a posting. Errors: none.
-- Example: select * from bank.balances(array[2, 3]);
create or replace function bank.balances(
    account_ids bigint[],
    ledger_id bigint default 1
) returns setof bank.account_balance
language plpgsql stable security definer set search_path = bank, pg_temp as $$
begin
    return query
    select * from bank.account_balance as a
    where a.ledger_id = balances.ledger_id and a.account_id = any(balances.account_ids);
end
$$;

comment on function bank.balances is 'The posted, held and available balances of many accounts at one moment';
