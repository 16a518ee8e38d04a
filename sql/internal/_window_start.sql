-- When the window of a limit began that a moment is in: midnight in UTC of the day, of the week's Monday, or of the
-- first of the month; null for a limit that has no window.
create or replace function bank._window_start(limit_kind bank.limit_kind, at timestamptz) returns timestamptz
language sql immutable parallel safe as $$
    select case
        when limit_kind in ('day', 'week', 'month') then date_trunc(limit_kind::text, at at time zone 'UTC') at time zone 'UTC'
    end
$$;
