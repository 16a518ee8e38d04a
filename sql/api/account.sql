-- An account with its holder, limits and balances, in minor units.
-- Locks: none. Errors: account_not_found.
-- Example: select * from bank.account(2);
create or replace function bank.account(account_id bigint, ledger_id bigint default 1) returns bank.account_detail
language plpgsql stable security definer set search_path = bank, pg_temp as $$
declare
    result bank.account_detail;
begin
    select * into result
    from bank.account_detail as a
    where a.ledger_id = account.ledger_id and a.account_id = account.account_id;
    if not found then
        perform bank._raise('account_not_found', jsonb_build_object(
            'field', 'account_id', 'reason', 'does not exist', 'account_id', account_id
        ));
    end if;
    return result;
end
$$;

comment on function bank.account is 'An account with its holder, limits and balances';
