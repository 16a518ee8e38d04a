-- The account_id of a stripe's own row, number 0 to 63. It is above every account's, so that stripes are locked after
-- accounts, and the account can be told from it (bank._account_of) without a lookup.
create or replace function bank._stripe_id(account_id bigint, number integer) returns bigint
language sql immutable parallel safe as $$
    select 4611686018427387904 + 64 * account_id + number
$$;
