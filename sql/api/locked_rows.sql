-- Which of these are locked by somebody now, so that a posting would wait for them; itself it waits for nobody. For
-- callers who would rather do something else in the meantime.
-- account_ids: of accounts; one with stripes is locked when all of its stripes are. settled_account_ids: accounts whose
-- settlement account is asked about. transaction_ids: of transactions to reverse, and of holds; one is locked when an
-- account of it is.
-- Returns a row for each that is locked: kind is account, settlement or transaction; id is its own; holder is a text
-- that changes with whoever holds the lock. What does not exist has no row.
-- Locks: the accounts that are free, FOR NO KEY UPDATE, until the caller's transaction ends: make it a short one.
-- Errors: none of the catalogue. As it locks rows, under REPEATABLE READ and above 40001 where one has changed since
-- the snapshot, and in a read-only transaction 25006.
-- Example: select * from bank.locked_rows(array[2, 3]);
create or replace function bank.locked_rows(
    account_ids bigint[],
    settled_account_ids bigint[] default '{}',
    transaction_ids bigint[] default '{}',
    ledger_id bigint default 1
) returns table (kind text, id bigint, holder text)
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    kinds text[];
    ids bigint[];
    of_account_ids bigint[];
    holders jsonb;
begin
    select array_agg(named.kind), array_agg(named.id), array_agg(named.account_id)
    into kinds, ids, of_account_ids
    from (
        select 'account' as kind, x.id, x.id as account_id
        from unnest(account_ids) as x (id)

        union

        select 'settlement', s.account_id, s.account_id
        from unnest(settled_account_ids) as x (id)
        cross join lateral bank._settlement_account_of(x.id, locked_rows.ledger_id) as s (account_id)

        union

        select 'transaction', t.transaction_id, side.account_id
        from bank.transaction as t
        cross join lateral (
            select bank._account_of(x.id)
            from unnest(array[t.debit_account_id, t.credit_account_id]) as x (id)
            where t.legs is null

            union all

            select (leg ->> 'account_id')::bigint
            from jsonb_array_elements(t.legs) as leg
        ) as side (account_id)
        where t.ledger_id = locked_rows.ledger_id and t.transaction_id = any(transaction_ids)
    ) as named;

    holders := bank._holders(of_account_ids, ledger_id);
    return query
    select named.kind, named.id, min(holders ->> named.account_id::text)
    from unnest(kinds, ids, of_account_ids) as named (kind, id, account_id)
    where holders ? named.account_id::text
    group by named.kind, named.id;
end
$$;

comment on function bank.locked_rows is 'Which accounts and transactions are locked by somebody now';
