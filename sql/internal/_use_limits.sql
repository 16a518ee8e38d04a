-- Counts a debit in the windows of its account. The caller holds the account's lock.
-- What is used stops at 2^53 - 1: no limit is higher, so that every decision is the same, and a limit of counts alone
-- never overflows.
create or replace function bank._use_limits(
    account_id bigint,
    window_minor bigint,
    window_count bigint,
    posted_at timestamptz,
    ledger_id bigint
) returns void
language plpgsql as $$
begin
    update bank.account_limit as l
    set used_minor = least(
            window_minor
            + case when l.window_started_at = bank._window_start(l.limit_kind, posted_at) then l.used_minor else 0 end,
            9007199254740991
        ),
        used_count = window_count
            + case when l.window_started_at = bank._window_start(l.limit_kind, posted_at) then l.used_count else 0 end,
        window_started_at = bank._window_start(l.limit_kind, posted_at)
    where l.ledger_id = _use_limits.ledger_id
        and l.account_id = _use_limits.account_id
        and l.limit_kind in ('day', 'week', 'month');
end
$$;
