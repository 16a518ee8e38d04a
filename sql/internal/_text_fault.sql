-- What is wrong with a text from outside, or null. Null passes: whether a text is required is its column's business.
-- Blank is what Unicode calls white space (PropList.txt): \s alone would depend on the collation of the value.
-- A text may be of any size: no more of it is read than the limit allows, and it is searched only when it fits.
-- E'' because the body is parsed in the session of whoever calls, and without standard_conforming_strings a plain
-- literal would be read as another pattern.
create or replace function bank._text_fault(value text, length_max integer) returns text
language sql stable parallel safe as $$
    select case
        when substr(value collate "C", length_max + 1, 1) <> '' then format('is longer than %s characters', length_max)
        when value collate "C"
            ~ E'^[\\s\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]*$' then 'is blank'
    end
$$;
