-- What is wrong with the legs and conditions of a transaction, as the facts of invalid_argument, or null.
create or replace function bank._legs_fault(
    account_ids bigint[],
    amounts_minor numeric[],
    conditions jsonb
) returns jsonb
language plpgsql stable as $$
begin
    -- What is too large is refused before it is looked through.
    if coalesce(cardinality(account_ids), 0) not between 2 and 1000 then
        return '{"field": "account_ids", "reason": "has not from 2 to 1000 legs"}';
    elsif jsonb_typeof(conditions) = 'array' and jsonb_array_length(conditions) > 1000 then
        return '{"field": "conditions", "reason": "has more than 1000 elements"}';
    end if;
    return (
        select jsonb_build_object('field', checked.field, 'reason', checked.reason)
        from (select cardinality(account_ids) as leg_count) as given
        cross join lateral (
            values
            (1, 'account_ids', bank._array_fault(account_ids, given.leg_count, 'account_ids')),
            (2, 'account_ids', (select 'has a null' from unnest(account_ids) as id where id is null limit 1)),
            (3, 'amounts_minor', bank._array_fault(amounts_minor, given.leg_count, 'account_ids')),
            (4, 'amounts_minor', (
                select 'has an amount that is not a whole number from 1 to 9007199254740991, or the same below zero'
                from unnest(amounts_minor) as amount
                where (abs(amount) between 1 and 9007199254740991 and amount = trunc(amount)) is not true
                limit 1
            )),
            (5, 'amounts_minor', (select 'do not sum to zero' from unnest(amounts_minor) as amount having sum(amount) <> 0)),
            (6, 'conditions', case
                when coalesce(jsonb_typeof(conditions), 'array') <> 'array' then 'is not an array'
            end),
            (7, 'conditions', (
                select 'has an element that is not an object of account_id, balance_at_least_minor, balance_at_most_minor, version'
                from jsonb_array_elements(case jsonb_typeof(conditions) when 'array' then conditions end) as condition
                where jsonb_typeof(condition) <> 'object'
                    or condition - array['account_id', 'balance_at_least_minor', 'balance_at_most_minor', 'version'] <> '{}'
                limit 1
            )),
            (8, 'conditions', (
                select format('has a %s that is not a whole number', member.key)
                from jsonb_array_elements(case jsonb_typeof(conditions) when 'array' then conditions end) as condition
                cross join lateral jsonb_each(case jsonb_typeof(condition) when 'object' then condition end) as member
                where (member.value #>> '{}' ~ '^-?[0-9]{1,18}$' and jsonb_typeof(member.value) = 'number') is not true
                limit 1
            )),
            (9, 'conditions', (
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
