-- Ends the holds of an account whose deadline has passed, and returns what is held after that; null when none has
-- passed, as nearly always. The caller holds the account's lock.
-- The first deadline is the first row of an index, whatever the planner thinks of how many have passed; a comparison
-- with the time in the predicate was planned as a scan of every open hold.
create or replace function bank._end_expired_holds(account_id bigint, ledger_id bigint) returns bigint
language plpgsql as $$
declare
    now_at constant timestamptz := clock_timestamp();
    first_deadline timestamptz;
    held_minor bigint;
begin
    select h.expires_at into first_deadline
    from bank.hold as h
    where h.ledger_id = _end_expired_holds.ledger_id
        and h.account_id = _end_expired_holds.account_id
        and h.hold_status = 'open'
    order by h.expires_at
    limit 1;
    if (first_deadline <= now_at) is not true then
        return null;
    end if;

    with expired as (
        update bank.hold as h
        set hold_status = 'expired', ended_at = now_at
        where h.ledger_id = _end_expired_holds.ledger_id
            and h.account_id = _end_expired_holds.account_id
            and h.hold_status = 'open'
            and h.expires_at <= now_at
        returning greatest(h.amount_minor - h.captured_minor, 0) as left_minor
    )

    update bank.account as a
    set held_minor = a.held_minor - expired.left_minor
    from (select sum(x.left_minor)::bigint as left_minor from expired as x) as expired
    where a.ledger_id = _end_expired_holds.ledger_id and a.account_id = _end_expired_holds.account_id
    returning a.held_minor into held_minor;
    return held_minor;
end
$$;
