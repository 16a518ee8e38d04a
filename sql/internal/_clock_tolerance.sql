-- How far ahead of the clock a time may be before it is called a time from the future. A clock is set in small steps
-- while the bank runs (NTP, a virtual machine that was paused, a failover to another server), and after a step back
-- what was posted just before is ahead of it for a moment: that is no fault, and mends itself. Longer than any such
-- step, and far shorter than what somebody would miss on a statement.
create or replace function bank._clock_tolerance() returns interval
language sql immutable parallel safe as $$
    select interval '1 minute'
$$;
