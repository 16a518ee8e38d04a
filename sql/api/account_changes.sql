-- A page of what was changed about an account, newest first: who, when, from, to. The next page starts before the
-- change_number of the last row of this one.
-- before_change_number: only changes with a lower number; null: from the newest. page_size: 1 to 1000 rows.
-- Locks: none. Errors, in this order: invalid_argument, account_not_found.
-- Example: select * from bank.account_changes(2);
create or replace function bank.account_changes(
    account_id bigint,
    before_change_number bigint default null,
    page_size bigint default 50,
    ledger_id bigint default 1
) returns setof bank.change_detail
language plpgsql stable security definer set search_path = bank, pg_temp as $$
begin
    if (page_size between 1 and 1000) is not true then
        perform bank._raise('invalid_argument', '{"field": "page_size", "reason": "is not from 1 to 1000"}');
    elsif before_change_number < 1 then
        perform bank._raise('invalid_argument', '{"field": "before_change_number", "reason": "is less than 1"}');
    end if;
    perform bank.account(account_id, ledger_id);
    return query
    select *
    from bank.change_detail as c
    where c.ledger_id = account_changes.ledger_id
        and c.account_id = account_changes.account_id
        and c.change_number < coalesce(before_change_number, 9223372036854775807)
    order by c.change_number desc
    limit page_size;
end
$$;

comment on function bank.account_changes is 'A page of what was changed about an account, newest first';
