-- What is wrong with the legs and conditions of a transaction, as the facts of invalid_argument, or null.
create or replace function bank._legs_fault(
    account_ids bigint[],
    amounts_minor numeric[],
    conditions jsonb
) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_build_object('field', checked.field, 'reason', checked.reason)
        from (select coalesce(cardinality(account_ids), 0) as leg_count) as given
        cross join lateral (
            values
            (1, 'account_ids', case when given.leg_count not between 2 and 1000 then 'has not from 2 to 1000 legs' end),
            (2, 'account_ids', bank._array_fault(account_ids, given.leg_count, 'account_ids')),
            (3, 'account_ids', (select 'has a null' from unnest(account_ids) as id where id is null limit 1)),
            (4, 'amounts_minor', bank._array_fault(amounts_minor, given.leg_count, 'account_ids')),
            (5, 'amounts_minor', (
                select 'has an amount that is not a whole number from 1 to 9007199254740991, or the same below zero'
                from unnest(amounts_minor) as amount
                where (abs(amount) between 1 and 9007199254740991 and amount = trunc(amount)) is not true
                limit 1
            )),
            (6, 'amounts_minor', (select 'do not sum to zero' from unnest(amounts_minor) as amount having sum(amount) <> 0)),
            (7, 'conditions', case
                when coalesce(jsonb_typeof(conditions), 'array') <> 'array' then 'is not an array'
            end),
            (8, 'conditions', (
                select 'has an element that is not an object of account_id, balance_at_least_minor, balance_at_most_minor, version'
                from jsonb_array_elements(case jsonb_typeof(conditions) when 'array' then conditions end) as condition
                where jsonb_typeof(condition) <> 'object'
                    or condition - array['account_id', 'balance_at_least_minor', 'balance_at_most_minor', 'version'] <> '{}'
                limit 1
            )),
            (9, 'conditions', (
                select format('has a %s that is not a whole number', member.key)
                from jsonb_array_elements(case jsonb_typeof(conditions) when 'array' then conditions end) as condition
                cross join lateral jsonb_each(case jsonb_typeof(condition) when 'object' then condition end) as member
                where (member.value #>> '{}' ~ '^-?[0-9]{1,18}$' and jsonb_typeof(member.value) = 'number') is not true
                limit 1
            )),
            (10, 'conditions', (
                select 'names an account that has no leg'
                from jsonb_array_elements(case jsonb_typeof(conditions) when 'array' then conditions end) as condition
                where jsonb_typeof(condition -> 'account_id') = 'number'
                    and not array[(condition ->> 'account_id')::numeric] <@ account_ids::numeric[]
                    or condition -> 'account_id' is null
                limit 1
            ))
        ) as checked (precedence, field, reason)
        where checked.reason is not null
        order by checked.precedence
        limit 1
    );
end
$$;
