-- Whether any entry is more than a minute ahead of the clock, as after a leap that was set right and not yet corrected.
-- Cheap: it reads only the pages that autovacuum has not indexed in the last minute or so.
-- Locks: none. Errors: none.
-- Example: select bank.has_entries_from_the_future();
create or replace function bank.has_entries_from_the_future() returns boolean
language plpgsql stable security definer set search_path = bank, pg_temp set enable_seqscan = off as $$
declare
    -- A variable, because the clock itself is no index condition. And no sequential scan, which statistics from before a
    -- correction would promise to end at once, and which would read everything.
    latest constant timestamptz := clock_timestamp() + bank._clock_tolerance();
begin
    return exists (select from bank.entry as e where e.created_at > latest);
end
$$;

comment on function bank.has_entries_from_the_future is
'Whether an entry is later than the clock, which only a clock that leapt leaves behind';
