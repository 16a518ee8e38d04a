-- What is wrong with a text from outside, or null. Null passes: whether a text is required is its column's business.
create or replace function bank._text_fault(value text, length_max integer) returns text
language sql stable parallel safe as $$
    select case
        when value !~ '\S' then 'is blank'
        when length(value) > length_max then format('is longer than %s characters', length_max)
    end
$$;
