-- The balances of an account, in minor units: posted, held, and available (posted - held + overdraft limit; null when
-- the overdraft is unlimited).
-- Locks: none; it reads what is committed and never waits for a posting. Errors: account_not_found.
-- Example: select * from bank.balance(2);
create or replace function bank.balance(account_id bigint, ledger_id bigint default 1) returns bank.account_balance
language plpgsql stable security definer set search_path = bank, pg_temp as $$
declare
    result bank.account_balance;
begin
    select * into result
    from bank.account_balance as a
    where a.ledger_id = balance.ledger_id and a.account_id = balance.account_id;
    if not found then
        perform bank._raise('account_not_found', jsonb_build_object(
            'field', 'account_id', 'reason', 'does not exist', 'account_id', account_id
        ));
    end if;
    return result;
end
$$;

comment on function bank.balance is 'The posted, held and available balance of an account';
