-- No sequence would draw an id that is there already: `pgteller migrate` mends it.
create or replace function bank._verify_sequences(only_ledger_id bigint) returns setof bank._violation
language sql stable as $$
    select
        'sequence_behind', only_ledger_id, null::bigint, null::bigint, null::bigint,
        jsonb_build_object('sequence', s.sequence_name, 'last_value', s.last_value, 'highest_id', s.highest_id)
    from bank._sequences(only_ledger_id) as s
    where s.behind
$$;
