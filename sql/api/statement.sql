-- A page of an account's entries, newest first. The next page starts before the version of the last line of this one.
-- before_version: only entries with a lower version; null: from the newest. page_size: 1 to 1000 lines.
-- Locks: none. Errors, in this order: invalid_argument, account_not_found.
-- Example: select * from bank.statement(2, page_size => 10);
create or replace function bank.statement(
    account_id bigint,
    before_version bigint default null,
    page_size bigint default 50,
    ledger_id bigint default 1
) returns setof bank.statement_line
language plpgsql stable security definer set search_path = bank, pg_temp as $$
declare
    account bank.account_detail;
begin
    if (page_size between 1 and 1000) is not true then
        perform bank._raise('invalid_argument', '{"field": "page_size", "reason": "is not from 1 to 1000"}');
    elsif before_version < 1 then
        perform bank._raise('invalid_argument', '{"field": "before_version", "reason": "is less than 1"}');
    end if;
    account := bank.account(account_id, ledger_id);
    if account.stripes > 0 then
        return query select * from bank._striped_statement(account_id, before_version, page_size, ledger_id);
        return;
    end if;
    -- The page is cut out of the entries before anything is joined: then it costs the same at any depth of the history.
    return query
    select
        e.account_id,
        e.version,
        e.transaction_id,
        t.transaction_type,
        e.amount_minor,
        e.balance_after_minor,
        case
            when t.legs is null
                then bank._account_of(case when e.amount_minor < 0 then t.credit_account_id else t.debit_account_id end)
        end,
        t.description,
        t.external_id,
        e.created_at,
        e.ledger_id
    from (
        select *
        from bank.entry as x
        where x.ledger_id = statement.ledger_id
            and x.account_id = statement.account_id
            and x.version < coalesce(before_version, 9223372036854775807)
        order by x.version desc
        limit page_size
    ) as e
    inner join bank.transaction as t on e.ledger_id = t.ledger_id and e.transaction_id = t.transaction_id
    order by e.version desc;
end
$$;

comment on function bank.statement is 'A page of an account''s entries, newest first';
