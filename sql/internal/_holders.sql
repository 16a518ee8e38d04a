-- Who holds the lock of each of these accounts that is locked now: an object from account_id to a text that is another
-- as soon as the holder is. An account with stripes is locked when all that are posted to are. Waits for nobody. What
-- is no account has no row, the id of a stripe's own row neither.
-- Locks: those that are free, and one stripe of each account with stripes, FOR NO KEY UPDATE.
create or replace function bank._holders(account_ids bigint[], ledger_id bigint) returns jsonb
-- Each row is looked up by its key, id by id: without statistics, or with a plan made for other arrays, a join over all
-- ids might read the table once for each of them.
language plpgsql set enable_seqscan = off as $$
declare
    free_ids bigint[];
    free_striped_ids bigint[] := '{}';
    striped_id bigint;
begin
    free_ids := array(
        select free.account_id
        from unnest(account_ids) as x (id)
        cross join lateral (
            select a.account_id
            from bank.account as a
            where a.ledger_id = _holders.ledger_id and a.account_id = x.id and a.stripes = 0
            limit 1
            for no key update skip locked
        ) as free
    );
    for striped_id in
        select striped.account_id
        from (select distinct u.id from unnest(account_ids) as u (id)) as x
        cross join lateral (
            select a.account_id
            from bank.account as a
            where a.ledger_id = _holders.ledger_id and a.account_id = x.id and a.stripes > 0
            limit 1
        ) as striped
    loop
        perform from bank.account as a
        where a.ledger_id = _holders.ledger_id
            and a.account_id between bank._stripe_id(striped_id, 0) and bank._stripe_id(striped_id, 63)
            and a.stripes = -1
        limit 1
        for no key update skip locked;
        if found then
            free_striped_ids := free_striped_ids || striped_id;
        end if;
    end loop;
    -- xmax is the transaction that locks the row, or has written its next version.
    return (
        select coalesce(jsonb_object_agg(locked.account_id, locked.holder), '{}')
        from (
            select
                named.id as account_id,
                -- Only an account with stripes is asked for their ids: those of a large id do not fit into a bigint.
                case
                    when main.stripes = 0 then main.holder
                    else (
                        select string_agg(s.xmax::text, ' ' order by s.account_id)
                        from bank.account as s
                        where s.ledger_id = _holders.ledger_id
                            and s.account_id between bank._stripe_id(named.id, 0) and bank._stripe_id(named.id, 63)
                            and s.stripes = -1
                    )
                end as holder
            from (
                select x.id
                from unnest(account_ids) as x (id)

                except

                select f.id
                from unnest(free_ids || free_striped_ids) as f (id)
            ) as named
            cross join lateral (
                select a.stripes, a.xmax::text as holder
                from bank.account as a
                where a.ledger_id = _holders.ledger_id and a.account_id = named.id and a.stripes >= 0
                limit 1
            ) as main
        ) as locked
        where locked.holder is not null
    );
end
$$;
