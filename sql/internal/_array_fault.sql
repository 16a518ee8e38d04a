-- What is wrong with an array that has an element for each item, or null. Elements are numbered from 1.
-- counted: the array whose elements are the items.
create or replace function bank._array_fault(
    elements anyarray, item_count integer, counted text default 'amounts_minor'
) returns text
language sql immutable parallel safe as $$
    select case
        when elements is null then 'is required'
        when cardinality(elements) <> item_count then 'has not as many elements as ' || counted
        when array_ndims(elements) <> 1 or array_lower(elements, 1) <> 1 then 'is not a plain list that begins at 1'
    end
$$;
