-- The account that a row of bank.account belongs to: itself, or the account whose stripe it is.
create or replace function bank._account_of(account_id bigint) returns bigint
language sql immutable parallel safe as $$
    select case when account_id >= 4611686018427387904 then (account_id - 4611686018427387904) / 64 else account_id end
$$;
