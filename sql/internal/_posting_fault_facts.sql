-- The facts of the first fault in the texts of a posting, or null: bank._posting_fault in full.
create or replace function bank._posting_fault_facts(
    idempotency_key text,
    description text,
    external_id text,
    metadata jsonb
) returns jsonb
language plpgsql stable parallel safe as $$
begin
    return (
        select jsonb_build_object('field', checked.field, 'reason', checked.reason)
        from (
            values
            (1, 'idempotency_key', bank._text_fault(idempotency_key, 255)),
            (2, 'description', bank._text_fault(description, 500)),
            (3, 'external_id', bank._text_fault(external_id, 255)),
            (4, 'metadata', bank._metadata_fault(metadata))
        ) as checked (precedence, field, reason)
        where checked.reason is not null
        order by checked.precedence
        limit 1
    );
end
$$;
