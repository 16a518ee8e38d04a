-- Ends the holds of an account whose deadline has passed, and returns what is held after that. The caller holds the
-- account's lock.
create or replace function bank._end_expired_holds(account_id bigint, ledger_id bigint) returns bigint
language plpgsql as $$
declare
    held_minor bigint;
begin
    with expired as (
        update bank.hold as h
        set hold_status = 'expired', ended_at = clock_timestamp()
        where h.ledger_id = _end_expired_holds.ledger_id
            and h.account_id = _end_expired_holds.account_id
            and h.hold_status = 'open'
            and h.expires_at <= clock_timestamp()
        returning greatest(h.amount_minor - h.captured_minor, 0) as left_minor
    )

    update bank.account as a
    set held_minor = a.held_minor - expired.left_minor
    from (select sum(x.left_minor)::bigint as left_minor from expired as x) as expired
    where a.ledger_id = _end_expired_holds.ledger_id
        and a.account_id = _end_expired_holds.account_id
        and expired.left_minor > 0;

    select a.held_minor into held_minor from bank.account as a
    where a.ledger_id = _end_expired_holds.ledger_id and a.account_id = _end_expired_holds.account_id;
    return held_minor;
end
$$;
