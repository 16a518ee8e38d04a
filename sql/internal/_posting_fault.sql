-- The first fault in the texts of a posting, as the facts of invalid_argument, or null.
create or replace function bank._posting_fault(
    idempotency_key text,
    description text,
    external_id text,
    metadata jsonb
) returns jsonb
language sql stable parallel safe as $$
    select case
        when coalesce(idempotency_key, description, external_id) is null and metadata = '{}' then null
        when bank._text_fault(idempotency_key, 255) is not null
            then jsonb_build_object('field', 'idempotency_key', 'reason', bank._text_fault(idempotency_key, 255))
        when bank._text_fault(description, 500) is not null
            then jsonb_build_object('field', 'description', 'reason', bank._text_fault(description, 500))
        when bank._text_fault(external_id, 255) is not null
            then jsonb_build_object('field', 'external_id', 'reason', bank._text_fault(external_id, 255))
        when bank._metadata_fault(metadata) is not null
            then jsonb_build_object('field', 'metadata', 'reason', bank._metadata_fault(metadata))
    end
$$;
