-- The first fault in the texts of a posting, as the facts of invalid_argument, or null.
-- Inlined into every posting, where each function called costs: a short text that begins with a printable character of
-- ASCII is neither blank nor too long, and nearly every one is such. For all others bank._posting_fault_facts is asked.
create or replace function bank._posting_fault(
    idempotency_key text,
    description text,
    external_id text,
    metadata jsonb
) returns jsonb
language sql stable parallel safe as $$
    select case
        when (idempotency_key is null or octet_length(idempotency_key) <= 255 and ascii(idempotency_key) between 33 and 126)
            and (description is null or octet_length(description) <= 500 and ascii(description) between 33 and 126)
            and (external_id is null or octet_length(external_id) <= 255 and ascii(external_id) between 33 and 126)
            and (metadata is null or metadata = '{}') then null
        else bank._posting_fault_facts(idempotency_key, description, external_id, metadata)
    end
$$;
