-- Raises sequence_behind for an account_id that was drawn and is another account's.
create or replace function bank._raise_sequence_behind(account_id bigint) returns void
language sql as $$
    select bank._raise('sequence_behind', jsonb_build_object(
        'field', 'account_id', 'reason', 'is used already by another account', 'account_id', account_id
    ))
$$;
