-- A part of what bank.verify checks, in a call that is short however large the bank is: called again with next_place
-- until that is null, it has checked everything. Each call sees one moment, and a posting between two calls is no
-- violation: each compares rows with what belongs to them at that moment. Entries and transactions that come in behind
-- the place are for the next time.
-- place: where to go on, as next_place of the call before; null: from the beginning. Accounts come first, then entries,
-- transactions, the keys of openings, and, with the last call, sequences and constraints.
-- rows_max: with how many rows to stop. What they are compared with is read beside them: the legs of a transaction, the
-- captures of a hold, the reversals of a transaction, the open holds of an account.
-- ledger_id null checks every ledger; it stays the same from call to call.
-- violations: an array of objects, with the columns of bank.verify as their members. One differs: the sum of a currency
-- is told by transaction. An entry that no transaction names is in no sum, and told as entry_without_transaction alone.
-- account_count, entry_count, transaction_count: how many this call checked. rows_estimated: how many rows of all three
-- there are in all ledgers, as the planner last counted them.
-- Locks: none. Errors, in this order: invalid_argument, ledger_not_found.
-- Example: select * from bank.verify_slice(place => 'entries:1:2:1', rows_max => 1000);
create or replace function bank.verify_slice(
    place text default null,
    rows_max integer default 50000,
    ledger_id bigint default 1
) returns table (
    next_place text,
    account_count bigint,
    entry_count bigint,
    transaction_count bigint,
    rows_estimated bigint,
    violations jsonb
)
-- Stable: all that it reads, it reads as of one moment. Where pages and comparisons cost nothing, the plan with the
-- fewest rows is the cheapest: the one that looks up by keys, at any size of the tables.
language plpgsql stable security definer
set search_path = bank, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set random_page_cost = 0
set cpu_operator_cost = 0
set work_mem = '32MB'
set jit = off as $$
declare
    highest constant bigint := 9223372036854775807;
    parts constant text[] := array['accounts', 'entries', 'transactions', 'openings', 'sequences'];
    part text := split_part(coalesce(place, 'accounts'), ':', 1);
    in_ledger_id bigint;
    after_id bigint;
    after_version bigint;
    after_key text;
    last_id bigint;
    last_version bigint;
    last_key text;
    fault jsonb;
begin
    begin
        in_ledger_id := nullif(split_part(place, ':', 2), '');
        if part = 'openings' then
            -- All behind the second colon: a key may have colons in it, or be empty.
            after_key := substring(place from '^[^:]*:[^:]*:(.*)$');
        else
            after_id := nullif(split_part(place, ':', 3), '')::bigint;
            after_version := coalesce(nullif(split_part(place, ':', 4), '')::bigint, -9223372036854775808);
        end if;
    exception
        when data_exception then
            part := null;
    end;
    select jsonb_build_object('field', checked.field, 'reason', checked.reason)
    into fault
    from (
        values
        ('place', case
            when part <> all(parts) is not false or (part <> 'sequences' and place is not null and in_ledger_id is null)
                then 'is not a next_place of bank.verify_slice'
            when in_ledger_id <> ledger_id then 'is in another ledger'
        end),
        ('rows_max', case when (rows_max >= 1) is not true then 'is not 1 or more' end)
    ) as checked (field, reason)
    where checked.reason is not null
    limit 1;
    if fault is not null then
        perform bank._raise('invalid_argument', fault);
    elsif not exists (select from bank.ledger as l where l.ledger_id = verify_slice.ledger_id) and ledger_id is not null then
        perform bank._raise('ledger_not_found', jsonb_build_object(
            'field', 'ledger_id', 'reason', 'does not exist', 'ledger_id', ledger_id
        ));
    end if;
    if place is null then
        in_ledger_id := coalesce(ledger_id, bank._verify_ledger(part, null));
    end if;

    -- The last row of the slice; where there are not so many any more, it reaches to the end of the ledger.
    if part = 'accounts' then
        select a.account_id into last_id
        from bank.account as a
        where a.ledger_id = in_ledger_id and (after_id is null or a.account_id > after_id)
        order by a.account_id
        offset rows_max - 1 limit 1;
        next_place := format('%s:%s:%s', part, in_ledger_id, last_id);
    elsif part = 'entries' then
        select e.account_id, e.version into last_id, last_version
        from bank.entry as e
        where e.ledger_id = in_ledger_id and (after_id is null or (e.account_id, e.version) > (after_id, after_version))
        order by e.account_id, e.version
        offset rows_max - 1 limit 1;
        next_place := format('%s:%s:%s:%s', part, in_ledger_id, last_id, last_version);
    elsif part = 'transactions' then
        select t.transaction_id into last_id
        from bank.transaction as t
        where t.ledger_id = in_ledger_id and (after_id is null or t.transaction_id > after_id)
        order by t.transaction_id
        offset rows_max - 1 limit 1;
        next_place := format('%s:%s:%s', part, in_ledger_id, last_id);
    elsif part = 'openings' then
        select o.idempotency_key into last_key
        from bank.opening as o
        where o.ledger_id = in_ledger_id and (after_key is null or o.idempotency_key > after_key)
        order by o.idempotency_key
        offset rows_max - 1 limit 1;
        next_place := format('%s:%s:%s', part, in_ledger_id, last_key);
    end if;
    if last_id is null and last_key is null then
        next_place := bank._verify_place(part, in_ledger_id, verify_slice.ledger_id);
    end if;
    last_id := coalesce(last_id, highest);
    last_version := coalesce(last_version, highest);

    select
        -- Stripes are rows of the accounts that they belong to.
        (
            select count(*) from bank.account as a
            where part = 'accounts'
                and a.ledger_id = in_ledger_id
                and (after_id is null or a.account_id > after_id)
                and a.account_id <= least(last_id, bank._stripe_id(0, 0) - 1)
        ),
        (
            select count(*) from bank.entry as e
            where part = 'entries'
                and e.ledger_id = in_ledger_id
                and (after_id is null or (e.account_id, e.version) > (after_id, after_version))
                and (e.account_id, e.version) <= (last_id, last_version)
        ),
        (
            select count(*) from bank.transaction as t
            where part = 'transactions'
                and t.ledger_id = in_ledger_id
                and (after_id is null or t.transaction_id > after_id)
                and t.transaction_id <= last_id
        ),
        (
            select coalesce(sum(greatest(c.reltuples, 0)), 0)
            from pg_class as c
            where c.oid in ('bank.account'::regclass, 'bank.entry'::regclass, 'bank.transaction'::regclass)
        )
    into account_count, entry_count, transaction_count, rows_estimated;

    with found as (
        select * from bank._verify_accounts(in_ledger_id, after_id, last_id) where part = 'accounts'

        union all
        select * from bank._verify_entries(in_ledger_id, after_id, after_version, last_id, last_version, rows_max::bigint + 1)
        where part = 'entries'

        union all
        select * from bank._verify_transactions(in_ledger_id, after_id, last_id) where part = 'transactions'

        union all
        select * from bank._verify_openings(in_ledger_id, after_key, last_key) where part = 'openings'

        union all
        select * from bank._verify_sequences(verify_slice.ledger_id) where part = 'sequences'

        union all
        select * from bank._verify_constraints(verify_slice.ledger_id) where part = 'sequences'
    ), found_in_all as (
        select * from found

        union all
        select *
        from bank._verify_sums(in_ledger_id, after_id, last_id, array(select f.transaction_id from found as f))
        where part = 'transactions'
    )

    select
        coalesce(
            jsonb_agg(
                jsonb_build_object(
                    'violation', f.violation,
                    'ledger_id', f.ledger_id,
                    'account_id', bank._account_of(f.account_id),
                    'transaction_id', f.transaction_id,
                    'version', f.version,
                    'detail', bank._violation_detail(f.account_id, f.detail)
                )
                order by f.account_id, f.version, f.transaction_id
            ),
            '[]'
        )
    into violations
    from found_in_all as f;
    return next;
end
$$;

comment on function bank.verify_slice is 'A part of what bank.verify checks, and the place where the next call goes on';
