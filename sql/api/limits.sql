-- The limits of an account, with what is used of the day, the week and the month in which something was used last.
-- The overdraft limit is in bank.account.
-- Locks: none. Errors: account_not_found.
-- Example: select * from bank.limits(2);
create or replace function bank.limits(account_id bigint, ledger_id bigint default 1) returns setof bank.limit_detail
language plpgsql stable security definer set search_path = bank, pg_temp as $$
begin
    perform bank.account(account_id, ledger_id);
    return query
    select *
    from bank.limit_detail as l
    where l.ledger_id = limits.ledger_id and l.account_id = limits.account_id
    order by l.limit_kind;
end
$$;

comment on function bank.limits is 'The limits of an account and what is used of them';
