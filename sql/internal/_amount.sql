-- An amount that came from outside, as exact minor units. Public functions take numeric so that a fraction, NaN,
-- Infinity or 2^63 meets this check and its error, not a cast that fails, or worse one that rounds.
-- Raises invalid_amount.
create or replace function bank._amount(amount numeric, field text default 'amount_minor') returns bigint
language plpgsql immutable as $$
begin
    -- NaN and Infinity sort above every number, so they fail the range.
    if amount between 1 and 9007199254740991 and amount = trunc(amount) then
        return amount::bigint;
    end if;
    perform bank._raise('invalid_amount', jsonb_build_object('field', field, 'reason', case
        when amount is null then 'is required'
        when amount = 'NaN' or amount in ('Infinity', '-Infinity') then 'is not a finite number'
        when amount <> trunc(amount) then 'is not a whole number of minor units'
        when amount < 1 then 'is not more than zero'
        else 'is more than 9007199254740991'
    end));
end
$$;
