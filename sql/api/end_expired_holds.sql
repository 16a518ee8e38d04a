-- Ends holds whose deadline has passed, in all ledgers, and returns how many accounts it tidied. They stopped
-- counting at the deadline; this only takes them out of the books, so that nobody who reads or posts has to subtract
-- them. Any number of callers may do it at the same moment: each account is tidied by one of them.
-- accounts_max: with how many accounts to stop.
-- Locks: each account with an expired hold, without waiting: one that is locked is left for the next time.
-- Errors: invalid_argument.
-- Example: select bank.end_expired_holds();
create or replace function bank.end_expired_holds(accounts_max bigint default 1000) returns bigint
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    now_at constant timestamptz := clock_timestamp();
    account_count bigint := 0;
    expired record;
begin
    if (accounts_max >= 0) is not true then
        perform bank._raise('invalid_argument', '{"field": "accounts_max", "reason": "is not 0 or more"}');
    end if;
    for expired in
        select distinct h.ledger_id, h.account_id
        from bank.ledger as l
        inner join bank.hold as h on l.ledger_id = h.ledger_id
        where h.hold_status = 'open' and h.expires_at <= now_at
        order by h.ledger_id, h.account_id
        limit accounts_max
    loop
        perform from bank.account as a
        where a.ledger_id = expired.ledger_id and a.account_id = expired.account_id
        for no key update skip locked;
        continue when not found;
        -- Another caller may have ended them since the list was read.
        continue when bank._end_expired_holds(expired.account_id, expired.ledger_id) is null;
        account_count := account_count + 1;
    end loop;
    return account_count;
end
$$;

comment on function bank.end_expired_holds is 'Ends holds whose deadline has passed; they stopped counting then';
