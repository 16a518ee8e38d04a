-- What is wrong with metadata from outside, or null. Null passes as the empty object.
create or replace function bank._metadata_fault(metadata jsonb) returns text
language sql stable parallel safe as $$
    select case
        when jsonb_typeof(metadata) <> 'object' then 'is not an object'
        when octet_length(metadata::text) > 8192 then 'is larger than 8192 bytes'
    end
$$;
