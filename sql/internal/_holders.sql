-- Who holds the lock of each of these accounts that is locked now: an object from account_id to a text that is another
-- as soon as the holder is. An account with stripes is locked when all of its stripes are. Waits for nobody.
-- Locks: those that are free, and one stripe of each account with stripes, FOR NO KEY UPDATE.
create or replace function bank._holders(account_ids bigint[], ledger_id bigint) returns jsonb
language plpgsql as $$
declare
    free_ids bigint[];
    striped_id bigint;
begin
    free_ids := array(
        select a.account_id
        from bank.account as a
        where a.ledger_id = _holders.ledger_id and a.account_id = any(account_ids) and a.stripes = 0
        order by a.account_id
        for no key update skip locked
    );
    for striped_id in
        select a.account_id
        from bank.account as a
        where a.ledger_id = _holders.ledger_id and a.account_id = any(account_ids) and a.stripes > 0
        order by a.account_id
    loop
        perform from bank.account as a
        where a.ledger_id = _holders.ledger_id
            and a.account_id between bank._stripe_id(striped_id, 0) and bank._stripe_id(striped_id, 63)
        limit 1
        for no key update skip locked;
        if found then
            free_ids := free_ids || striped_id;
        end if;
    end loop;
    -- xmax is the transaction that locks the row, or has written its next version.
    return (
        select coalesce(jsonb_object_agg(locked.account_id, locked.holder), '{}')
        from (
            select
                bank._account_of(a.account_id) as account_id,
                string_agg(a.xmax::text, ' ' order by a.account_id) as holder
            from (
                select x.id as account_id
                from unnest(account_ids) as x (id)
                where x.id <> all(free_ids)
            ) as named
            inner join bank.account as a
                on a.ledger_id = _holders.ledger_id
                and (
                    a.account_id = named.account_id and a.stripes = 0
                    or a.account_id between bank._stripe_id(named.account_id, 0) and bank._stripe_id(named.account_id, 63)
                )
            group by bank._account_of(a.account_id)
        ) as locked
    );
end
$$;
