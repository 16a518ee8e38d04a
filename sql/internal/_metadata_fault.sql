-- What is wrong with metadata from outside, or null. Null passes as the empty object.
-- The text is built only when it cannot be out of all proportion to its limit. 8192 bytes of JSON are at most 33 kB of
-- jsonb (an array of ones); || gives it as it is in memory, where it came compressed. A number of 10 bytes may have a
-- text of 131072: one whose text alone is too long is looked for.
create or replace function bank._metadata_fault(metadata jsonb) returns text
language sql stable parallel safe as $$
    select case
        when pg_column_size(metadata) > 40000 then 'is larger than 8192 bytes'
        when jsonb_typeof(metadata) <> 'object' then 'is not an object'
        when pg_column_size(metadata || '{}') > 40000
            or metadata @? 'strict $.** ? (@ >= 1e8192 || @ <= -1e8192)'
            or octet_length(metadata::text) > 8192
            then 'is larger than 8192 bytes'
    end
$$;
