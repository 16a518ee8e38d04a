-- Adds a currency of your own to those of ISO 4217: points, tokens, a test currency.
-- currency: its code, an upper-case letter and then letters or digits, 3 to 12 in all. exponent: how many decimal
-- digits the minor unit is below the unit, 0 to 18. Neither can be changed later: amounts would mean something else.
-- Errors: invalid_argument.
create or replace function bank.create_currency(currency text, exponent integer, name text) returns bank.currency
language plpgsql set search_path = bank, pg_temp as $$
declare
    fault jsonb;
    result bank.currency;
begin
    select jsonb_build_object('field', checked.field, 'reason', checked.reason)
    into fault
    from (
        values
        ('currency', case
            when (currency ~ '^[A-Z][A-Z0-9]{2,11}$') is not true then 'is not an upper-case code of 3 to 12 letters and digits'
        end),
        ('exponent', case when (exponent between 0 and 18) is not true then 'is not from 0 to 18' end),
        ('name', coalesce(bank._text_fault(name, 100), case when name is null then 'is required' end))
    ) as checked (field, reason)
    where checked.reason is not null
    limit 1;
    if fault is null then
        insert into bank.currency as c (currency, exponent, name)
        values (create_currency.currency, create_currency.exponent, create_currency.name)
        on conflict do nothing
        returning c.* into result;
        if not found then
            fault := '{"field": "currency", "reason": "is taken"}';
        end if;
    end if;
    if fault is not null then
        perform bank._raise('invalid_argument', fault);
    end if;
    return result;
end
$$;

comment on function bank.create_currency is 'Adds a currency of your own';
