-- An amount that came from outside, as exact minor units. Public functions take numeric so that a fraction, NaN,
-- Infinity or 2^63 meets this check and its error, not a cast that fails, or worse one that rounds. NaN and Infinity
-- sort above every number, so they fail the range.
-- A single expression, so that the planner inlines it. Raises invalid_amount.
create or replace function bank._amount(amount numeric, field text default 'amount_minor') returns bigint
language sql immutable as $$
    select case
        when amount between 1 and 9007199254740991 and amount = trunc(amount) then amount::bigint
        else bank._invalid_amount(amount, field)
    end
$$;
