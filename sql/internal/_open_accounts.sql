-- Opens many accounts exactly as if bank.open_account had been called for one item after another in this order, but
-- with a handful of statements in all. tests/sql/test_openings.py holds the two equal. The arrays have been checked
-- (bank._openings_fault).
--
-- Locks: everything that another call may wait for is taken in one order, whatever the order of the items, so that
-- racing calls never wait for each other in a circle: settlement accounts by currency, then keys, then external ids,
-- each ascending. A row of each distinct key and external id is inserted for that, and only then is it known which
-- items open an account. Who waited reads what was in the way in a statement of its own: a lock wait does not refresh
-- the snapshot of the statement that waited.
-- What was inserted for an item that turns out to open no account is deleted again, and inserted for the one that does.
-- That takes two items of one call that share a key or an external id, or a key whose item has a taken external id.
-- offset 0 makes the planner look rows up one by one. Before a table is analysed it takes it for so small that it would
-- compare every item with every account of the ledger: 16 s for 10,000 accounts instead of 0.2 s.
-- Plans are kept, because making them anew for each list of items takes longer than opening one account does: 0.57 ms
-- instead of 0.15.
create or replace function bank._open_accounts(
    holder_names text[],
    currencies text[],
    overdraft_limits_minor numeric[],
    external_ids text[],
    metadatas jsonb[],
    account_types text[],
    idempotency_keys text[],
    ledger_id bigint
) returns setof bank.opened_account
language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    item_count constant integer := cardinality(holder_names);
    -- Items. first_of_key, first_of_external_id: the first item with the same one. ids: drawn for the items that may
    -- open an account, ascending as they are.
    requests jsonb[];
    ids bigint[];
    first_of_key integer[];
    first_of_external_id integer[];
    -- At the first item of each key and external id: who has it, and the request of the key.
    key_account_ids bigint[] := array_fill(null::bigint, array[item_count]);
    key_requests jsonb[] := array_fill(null::jsonb, array[item_count]);
    external_account_ids bigint[] := key_account_ids;
    -- What was inserted, ascending as the items, and how many of it the items in hand have passed.
    reserved_ids bigint[];
    inserted_ids bigint[];
    passed integer := 0;
    inserted boolean;
    -- Outcomes.
    account_ids bigint[] := key_account_ids;
    replays boolean[] := array_fill(false, array[item_count]);
    failure_codes text[];
    failure_details jsonb[];
    surplus_ids bigint[] := '{}';
    surplus_keys text[] := '{}';
    late_items integer[] := '{}';
    late_keys integer[] := '{}';
    all_invalid boolean;
    used_currency text;
    distinct_count integer;
    k integer;
    e integer;
    facts jsonb;
begin
    overdraft_limits_minor := coalesce(overdraft_limits_minor, array_fill(0::numeric, array[item_count]));
    account_types := coalesce(account_types, array_fill('liability'::text, array[item_count]));

    with item as materialized ( -- else each fault is looked for several times
        select
            x.*,
            c.currency is null as currency_unknown,
            bank._opening_fault(
                x.holder_name, x.currency, x.overdraft_limit_minor, x.external_id, x.metadata, x.account_type, x.key
            ) as fault
        from unnest(
            holder_names, currencies, overdraft_limits_minor, external_ids, metadatas, account_types, idempotency_keys
        ) with ordinality as x (
            holder_name, currency, overdraft_limit_minor, external_id, metadata, account_type, key, n
        )
        left join bank.currency as c on x.currency = c.currency
    )

    select
        array_agg(case when item.fault is null then jsonb_build_object(
            'holder_name', item.holder_name,
            'currency', item.currency,
            'overdraft_limit_minor', item.overdraft_limit_minor,
            'external_id', item.external_id,
            'metadata', coalesce(item.metadata, '{}'),
            'account_type', item.account_type
        ) end order by item.n),
        array_agg(case
            when item.fault is not null then 'invalid_argument'
            when item.currency_unknown then 'unknown_currency'
        end order by item.n),
        array_agg(case
            when item.fault is not null then item.fault
            when item.currency_unknown then '{"field": "currency", "reason": "is not a known currency code"}'
        end order by item.n),
        bool_and(item.fault is not null)
    into requests, failure_codes, failure_details, all_invalid
    from item;

    if not all_invalid and not exists (select from bank.ledger as l where l.ledger_id = _open_accounts.ledger_id) then
        perform bank._raise('ledger_not_found', jsonb_build_object('field', 'ledger_id', 'reason', 'does not exist'));
    end if;

    for used_currency in
        select distinct item.currency
        from unnest(currencies, failure_codes) as item (currency, code)
        where item.code is null
        order by item.currency
    loop
        perform bank._book_account('settlement', used_currency, ledger_id);
    end loop;

    ids := array(
        select case when code is null then nextval('bank.account_account_id_seq') end
        from unnest(failure_codes) as code
    );

    if idempotency_keys is not null then
        select
            array_agg(item.first_item order by item.n),
            count(*) filter (where item.first_item = item.n)
        into first_of_key, distinct_count
        from (
            select
                x.n,
                case when x.key is not null then min(x.n) filter (where x.id is not null) over (partition by x.key collate "default") end
                    as first_item
            from unnest(idempotency_keys, ids) with ordinality as x (key, id, n)
        ) as item;

        with reserved as (
            insert into bank.opening (ledger_id, idempotency_key, account_id, request)
            select ledger_id, item.key, item.id, item.request
            from unnest(idempotency_keys, ids, requests, first_of_key) with ordinality
                as item (key, id, request, first_item, n)
            where item.first_item = item.n
            order by item.key collate "default"
            on conflict do nothing
            returning account_id
        )

        select coalesce(array_agg(reserved.account_id order by reserved.account_id), '{}') into reserved_ids
        from reserved;

        if cardinality(reserved_ids) < distinct_count then
            select array_agg(o.account_id order by item.n), array_agg(o.request order by item.n)
            into key_account_ids, key_requests
            from unnest(idempotency_keys, first_of_key) with ordinality as item (key, first_item, n)
            left join lateral (
                select x.account_id, x.request from bank.opening as x
                where x.ledger_id = _open_accounts.ledger_id and x.idempotency_key = item.key collate "default" and item.first_item = item.n
                offset 0
            ) as o on true;
            for i in 1 .. item_count loop
                if ids[i] = reserved_ids[passed + 1] then
                    passed := passed + 1;
                    key_account_ids[i] := null;
                elsif key_account_ids[first_of_key[i]] is not null then
                    ids[i] := null;
                end if;
            end loop;
            passed := 0;
        end if;
    end if;

    -- Of the items that may still open an account; one without external id opens none if an earlier one has its key.
    select
        array_agg(item.first_item order by item.n),
        count(*) filter (where item.first_item = item.n)
    into first_of_external_id, distinct_count
    from (
        select
            x.n,
            case
                when x.id is null then null
                when x.external_id is not null
                    then min(x.n) filter (where x.id is not null) over (partition by x.external_id collate "default")
                else coalesce(x.first_of_key, x.n)
            end as first_item
        from unnest(external_ids, ids, first_of_key) with ordinality as x (external_id, id, first_of_key, n)
    ) as item;

    with inserted as (
        insert into bank.account (
            ledger_id, account_id, holder_name, currency, overdraft_limit_minor, external_id, metadata, account_type
        )
        select
            ledger_id, item.id, item.holder_name, item.currency, item.overdraft_limit_minor, item.external_id,
            coalesce(item.metadata, '{}'), item.account_type::bank.account_type
        from unnest(
            ids, holder_names, currencies, overdraft_limits_minor, external_ids, metadatas, account_types,
            first_of_external_id
        ) with ordinality as item (
            id, holder_name, currency, overdraft_limit_minor, external_id, metadata, account_type, first_item, n
        )
        where item.first_item = item.n
        order by item.external_id collate "default", item.n
        on conflict do nothing
        returning account_id
    )

    select coalesce(array_agg(inserted.account_id order by inserted.account_id), '{}') into inserted_ids
    from inserted;

    if cardinality(inserted_ids) < distinct_count then
        select array_agg(a.account_id order by item.n) into external_account_ids
        from unnest(external_ids, first_of_external_id) with ordinality as item (external_id, first_item, n)
        left join lateral (
            select x.account_id from bank.account as x
            where x.ledger_id = _open_accounts.ledger_id and x.external_id = item.external_id collate "default" and item.first_item = item.n
            offset 0
        ) as a on true;
    end if;

    for i in 1 .. item_count loop
        continue when failure_codes[i] is not null;
        k := first_of_key[i];
        e := first_of_external_id[i];

        inserted := coalesce(ids[i] = inserted_ids[passed + 1], false);
        if inserted then
            passed := passed + 1;
            external_account_ids[i] := null;
        elsif e = i and external_account_ids[i] is null then
            perform bank._raise_sequence_behind('account_id', ids[i]);
        end if;

        if key_account_ids[k] is not null then
            facts := bank._opening_reuse_facts(key_requests[k], requests[i], key_account_ids[k]);
            if facts is null then
                account_ids[i] := key_account_ids[k];
                replays[i] := true;
            else
                failure_codes[i] := 'idempotency_key_reused';
                failure_details[i] := facts;
            end if;
        elsif external_ids[i] is not null and external_account_ids[e] is not null then
            failure_codes[i] := 'external_id_taken';
            failure_details[i] := jsonb_build_object(
                'field', 'external_id', 'reason', 'is taken', 'account_id', external_account_ids[e]
            );
            if k = i then
                surplus_keys := surplus_keys || idempotency_keys[i];
            end if;
        else
            account_ids[i] := ids[i];
            if not inserted then
                late_items := late_items || i;
            end if;
            if k <> i then
                late_keys := late_keys || i;
            end if;
            if k is not null then
                key_account_ids[k] := ids[i];
                key_requests[k] := requests[i];
            end if;
            if external_ids[i] is not null then
                external_account_ids[e] := ids[i];
            end if;
        end if;
        if inserted and account_ids[i] is distinct from ids[i] then
            surplus_ids := surplus_ids || ids[i];
        end if;
    end loop;

    if surplus_keys <> '{}' then
        delete from bank.opening as o
        where o.ledger_id = _open_accounts.ledger_id and o.idempotency_key = any(surplus_keys collate "default");
    end if;
    if surplus_ids <> '{}' then
        delete from bank.account as a
        where a.ledger_id = _open_accounts.ledger_id and a.account_id = any(surplus_ids);
    end if;
    -- Nobody else can take what these need.
    foreach k in array late_items loop
        insert into bank.account (
            ledger_id, account_id, holder_name, currency, overdraft_limit_minor, external_id, metadata, account_type
        )
        values (
            ledger_id, ids[k], holder_names[k], currencies[k], overdraft_limits_minor[k], external_ids[k],
            coalesce(metadatas[k], '{}'), account_types[k]::bank.account_type
        )
        on conflict do nothing;
        if not found then
            perform bank._raise_sequence_behind('account_id', ids[k]);
        end if;
    end loop;
    foreach k in array late_keys loop
        insert into bank.opening (ledger_id, idempotency_key, account_id, request)
        values (ledger_id, idempotency_keys[k], ids[k], requests[k]);
    end loop;

    return query
    select
        a.account_id, a.holder_name, a.currency, a.account_type, a.account_status, a.balance_minor, a.held_minor,
        a.available_balance_minor, a.overdraft_limit_minor, a.version, coalesce(a.external_id, item.external_id),
        a.metadata, a.created_at, _open_accounts.ledger_id, a.stripes, item.replayed, item.code, item.detail
    from unnest(account_ids, external_ids, replays, failure_codes, failure_details) with ordinality
        as item (account_id, external_id, replayed, code, detail, n)
    left join lateral (
        select * from bank.account_detail as x
        where x.ledger_id = _open_accounts.ledger_id and x.account_id = item.account_id
        offset 0
    ) as a on true
    order by item.n;
end
$$;
