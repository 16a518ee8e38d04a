-- Locks one stripe of an account, FOR NO KEY UPDATE, and returns its row; null when the account has no stripes or does
-- not exist.
-- Each connection has a stripe of its own choice, takes any other that is free when that one is held, and waits only
-- when all are held. Called in ascending account_id after the rows of accounts themselves are locked, it keeps the
-- order in which every posting locks.
create or replace function bank._lock_stripe(account_id bigint, ledger_id bigint) returns bank._postable
language plpgsql as $$
declare
    first_id bigint;
    stripe_count smallint;
    chosen_id bigint;
    locked bank._postable;
begin
    loop
        select a.stripes into stripe_count
        from bank.account as a
        where a.ledger_id = _lock_stripe.ledger_id and a.account_id = _lock_stripe.account_id and a.stripes > 0;
        exit when not found;

        first_id := bank._stripe_id(account_id, 0);
        chosen_id := first_id + pg_backend_pid() % stripe_count;
        select * into locked
        from bank._postable as a
        where a.ledger_id = _lock_stripe.ledger_id and a.account_id = chosen_id and a.stripes = -1
        for no key update skip locked;
        exit when found;

        select * into locked
        from bank._postable as a
        where a.ledger_id = _lock_stripe.ledger_id
            and a.account_id between first_id and first_id + 63
            and a.stripes = -1
        limit 1
        for no key update skip locked;
        exit when found;

        -- Nothing is found when the stripe was given up while we waited: then the account has another number of them.
        select * into locked
        from bank._postable as a
        where a.ledger_id = _lock_stripe.ledger_id and a.account_id = chosen_id and a.stripes = -1
        for no key update;
        exit when found;
    end loop;
    return locked;
end
$$;
