-- The facts that go with a limit's rejection, for its failure_detail.
create or replace function bank._limit_facts(
    failure_code text,
    account_id bigint,
    amount_max_minor bigint,
    count_max bigint,
    used_minor numeric,
    used_count bigint
) returns jsonb
language sql stable parallel safe as $$
    select jsonb_strip_nulls(jsonb_build_object(
        'account_id', account_id,
        'limit_minor', case when failure_code not like '%count%' then amount_max_minor end,
        'limit_count', case when failure_code like '%count%' then count_max end,
        'used_minor', case when failure_code like '%amount%' then used_minor end,
        'used_count', case when failure_code like '%count%' then used_count end
    ))
$$;
