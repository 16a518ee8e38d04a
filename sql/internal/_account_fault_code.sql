-- The code that goes with the facts of an account that is lacking: it was not named, or does not exist.
create or replace function bank._account_fault_code(facts jsonb) returns text
language sql immutable parallel safe as $$
    select case facts ->> 'reason' when 'is required' then 'invalid_argument' else 'account_not_found' end
$$;
