-- Raises invalid_amount with what is wrong with an amount; returns nothing. Immutable, so that bank._amount inlines.
create or replace function bank._invalid_amount(amount numeric, field text) returns bigint
language plpgsql immutable as $$
begin
    perform bank._raise('invalid_amount', jsonb_build_object('field', field, 'reason', case
        when amount is null then 'is required'
        when amount = 'NaN' or amount in ('Infinity', '-Infinity') then 'is not a finite number'
        when amount <> trunc(amount) then 'is not a whole number of minor units'
        when amount < 1 then 'is not more than zero'
        else 'is more than 9007199254740991'
    end));
    return null;
end
$$;
