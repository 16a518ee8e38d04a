-- The first fault in the texts of a change, as the facts of invalid_argument, or null.
create or replace function bank._change_fault(reason text, changed_by text) returns jsonb
language sql stable parallel safe as $$
    select case
        when bank._text_fault(reason, 500) is not null
            then jsonb_build_object('field', 'reason', 'reason', bank._text_fault(reason, 500))
        when bank._text_fault(changed_by, 255) is not null
            then jsonb_build_object('field', 'changed_by', 'reason', bank._text_fault(changed_by, 255))
    end
$$;
