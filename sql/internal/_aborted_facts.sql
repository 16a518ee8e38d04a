-- The facts of batch_aborted: which item, counted from 1, stopped the group.
create or replace function bank._aborted_facts(stopped_by integer) returns jsonb
language sql stable parallel safe as $$
    select jsonb_build_object(
        'field', 'group', 'reason', format('item %s was not posted', stopped_by), 'stopped_by', stopped_by
    )
$$;
