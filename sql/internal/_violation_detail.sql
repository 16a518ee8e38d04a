-- The detail of a violation, with the number of the stripe where account_id is the row of one.
create or replace function bank._violation_detail(account_id bigint, detail jsonb) returns jsonb
language sql immutable parallel safe as $$
    select case
        when account_id <> bank._account_of(account_id)
            then detail || jsonb_build_object('stripe', account_id - bank._stripe_id(bank._account_of(account_id), 0))
        else detail
    end
$$;
