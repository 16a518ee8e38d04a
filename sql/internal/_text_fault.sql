-- What is wrong with a text from outside, or null. Null passes: whether a text is required is its column's business.
-- Blank is what Unicode calls white space (PropList.txt): \s alone would depend on the locale of the cluster.
create or replace function bank._text_fault(value text, length_max integer) returns text
language sql stable parallel safe as $$
    select case
        when value ~ '^[\s\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$' then 'is blank'
        when length(value) > length_max then format('is longer than %s characters', length_max)
    end
$$;
