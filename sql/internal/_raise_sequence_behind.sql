-- Raises sequence_behind for an id, of an account or a transaction, that was drawn and is another's.
-- field: account_id or transaction_id.
create or replace function bank._raise_sequence_behind(field text, drawn_id bigint) returns void
language plpgsql as $$
begin
    perform bank._raise('sequence_behind', jsonb_build_object(
        'field', field,
        'reason', format('is used already by another %s', replace(field, '_id', '')),
        field, drawn_id
    ));
end
$$;
