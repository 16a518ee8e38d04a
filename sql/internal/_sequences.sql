-- Every sequence that ids are drawn from, with the highest id that is there, of one ledger or of all. One is behind
-- when it would draw an id that is there already: sequences are left out of logical replication, and of a partial
-- restore.
--
-- Sequences stand outside of transactions, so they are read as they are now, the ids as of the statement's snapshot,
-- which is older: an id that is seen was drawn before, and no posting in flight can make a sequence look behind.
-- last_value was drawn already only where is_called says so. Ids of stripes are made, not drawn.
create or replace function bank._sequences(ledger_id bigint) returns table (
    sequence_name text,
    last_value bigint,
    highest_id bigint,
    behind boolean
)
language sql stable as $$
    select
        s.sequence_name, s.last_value, s.highest_id,
        coalesce(s.last_value + case when s.is_called then 1 else 0 end <= s.highest_id, false)
    from (
        select
            'bank.transaction_id_seq', q.last_value, q.is_called,
            (
                -- A lookup for each ledger: the ledger leads the key.
                select max(x.highest_id)
                from bank.ledger as l
                cross join lateral (
                    select max(t.transaction_id) as highest_id from bank.transaction as t where t.ledger_id = l.ledger_id
                ) as x
                where $1 is null or l.ledger_id = $1
            )
        from bank.transaction_id_seq as q

        union all
        select
            'bank.account_account_id_seq', q.last_value, q.is_called,
            (
                select max(x.highest_id)
                from bank.ledger as l
                cross join lateral (
                    select max(a.account_id) as highest_id
                    from bank.account as a
                    where a.ledger_id = l.ledger_id and a.account_id < bank._stripe_id(0, 0)
                ) as x
                where $1 is null or l.ledger_id = $1
            )
        from bank.account_account_id_seq as q

        union all
        select
            'bank.ledger_ledger_id_seq', q.last_value, q.is_called,
            (select max(l.ledger_id) from bank.ledger as l where $1 is null or l.ledger_id = $1)
        from bank.ledger_ledger_id_seq as q

        union all
        select
            'bank.api_key_api_key_id_seq', q.last_value, q.is_called,
            (select max(k.api_key_id) from bank.api_key as k where $1 is null or k.ledger_id = $1)
        from bank.api_key_api_key_id_seq as q
    ) as s (sequence_name, last_value, is_called, highest_id)
$$;
