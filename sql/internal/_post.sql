-- The posting engine for many items: they are posted exactly as if bank._post_one had been called for one after
-- another in this order, but with a handful of statements in all. tests/sql/test_batch.py holds the two equal.
--
-- Item i moves amounts_minor[i] from debit_account_ids[i] to credit_account_ids[i]; a settlement account is named by a
-- null, as in bank._post_one. Returns a row an item, in order: what bank._post_one would have returned, or, where it
-- would have raised, a row without transaction_id whose failure_code and failure_detail are the error.
--
-- atomic: all or none. The first item that is not posted stops the batch; its rejection is recorded as always, and
-- every other item has failure_code batch_aborted, is not recorded, and keeps its idempotency key for another time.
--
-- Locks: all accounts of the batch, FOR NO KEY UPDATE, in ascending account_id, then one stripe of each striped
-- account, until the caller's transaction ends.
-- Keys are looked up after the locks are held, in a statement of its own: a lock wait does not refresh the snapshot
-- of the statement that waited. A key that another batch with other accounts inserts meanwhile shows as a row too few;
-- what was inserted is taken back then, which nobody has seen, and the batch is decided again.
create or replace function bank._post(
    transaction_types bank.transaction_type[],
    debit_account_ids bigint[],
    credit_account_ids bigint[],
    amounts_minor bigint[],
    idempotency_keys text[],
    descriptions text[],
    external_ids text[],
    metadatas jsonb[],
    atomic boolean,
    ledger_id bigint
) returns setof bank.posting
language plpgsql as $$
declare
    item_count constant integer := cardinality(amounts_minor);
    nulls constant bigint[] := array_fill(null::bigint, array[item_count]);
    -- Accounts in ascending id, then one stripe of each striped account from stripe_position on; positions leads from
    -- the rank of an id to its place here, and is null when unknown.
    ranked_ids bigint[];
    positions integer[];
    account_ids bigint[];
    statuses bank.account_status[];
    currencies text[];
    balances bigint[];
    availables bigint[];
    versions bigint[];
    versions_before bigint[];
    stripe bank.account;
    stripe_position integer;
    posted_at timestamptz;
    -- Items. first_items: the first item with the same key. used_ids: the transaction that used the key before.
    debit_ranks integer[];
    credit_ranks integer[];
    first_items integer[];
    used_ids bigint[];
    key_items integer[];
    -- Outcomes. new_ids: transactions of this call; replayed_ids: of an earlier call, or of an earlier item.
    new_ids bigint[];
    debit_row_ids bigint[];
    credit_row_ids bigint[];
    replayed_ids bigint[];
    failure_codes text[];
    failure_details jsonb[];
    item_currencies text[];
    debit_balances bigint[];
    credit_balances bigint[];
    debit_versions bigint[];
    credit_versions bigint[];
    recorded_count integer;
    inserted_count integer;
    stopped_by integer;
    amount bigint;
    d integer;
    c integer;
    same integer;
    facts jsonb;
    recorded bank.posting;
    result bank.posting;
begin
    if array_position(debit_account_ids, null) is not null or array_position(credit_account_ids, null) is not null then
        select array_agg(sides.debit_id order by sides.n), array_agg(sides.credit_id order by sides.n)
        into debit_account_ids, credit_account_ids
        from bank._with_settlement_accounts(transaction_types, debit_account_ids, credit_account_ids, ledger_id) as sides;
    end if;

    -- dense_rank finds each id's place without a join: a join of two unnested arrays is planned as a nested loop.
    select
        array_agg(side.rank order by side.n) filter (where side.debit),
        array_agg(side.rank order by side.n) filter (where not side.debit),
        coalesce(array_agg(side.id order by side.id) filter (where side.first), '{}')
    into debit_ranks, credit_ranks, ranked_ids
    from (
        select
            u.n,
            u.debit,
            u.id,
            case when u.id is not null then dense_rank() over ids end::integer as rank,
            u.id is not null and u.id is distinct from lag(u.id) over ids as first
        from (
            select x.id, x.n, true as debit from unnest(debit_account_ids) with ordinality as x (id, n)
            union all
            select x.id, x.n, false as debit from unnest(credit_account_ids) with ordinality as x (id, n)
        ) as u
        window ids as (order by u.id)
    ) as side;

    loop
        select
            array_agg(a.account_id),
            array_agg(a.account_status),
            array_agg(a.currency),
            array_agg(a.balance_minor),
            array_agg(a.balance_minor - a.held_minor + a.overdraft_limit_minor),
            array_agg(a.version),
            greatest(clock_timestamp(), max(a.last_entry_at))
        into account_ids, statuses, currencies, balances, availables, versions, posted_at
        from (
            select x.*
            from bank.account as x
            where x.ledger_id = _post.ledger_id and x.account_id = any(ranked_ids) and x.stripes = 0
            order by x.account_id
            for no key update
        ) as a;

        positions := array_fill(null::integer, array[cardinality(ranked_ids)]);
        d := 1;
        for i in 1 .. cardinality(ranked_ids) loop
            if account_ids[d] = ranked_ids[i] then
                positions[i] := d;
                d := d + 1;
            end if;
        end loop;
        stripe_position := coalesce(cardinality(account_ids), 0) + 1;
        for i in 1 .. cardinality(ranked_ids) loop
            if positions[i] is null then
                stripe := bank._lock_stripe(ranked_ids[i], ledger_id);
                if stripe.account_id is not null then
                    account_ids := account_ids || stripe.account_id;
                    statuses := statuses || stripe.account_status;
                    currencies := currencies || stripe.currency;
                    balances := balances || stripe.balance_minor;
                    availables := availables || null::bigint;
                    versions := versions || stripe.version;
                    posted_at := greatest(posted_at, stripe.last_entry_at);
                    positions[i] := cardinality(account_ids);
                end if;
            end if;
        end loop;
        versions_before := versions;

        if idempotency_keys is not null then
            select array_agg(k.first_item order by k.n), array_agg(k.used_id order by k.n)
            into first_items, used_ids
            from (
                select item.n, min(item.n) over (partition by item.key) as first_item, t.transaction_id as used_id
                from unnest(idempotency_keys) with ordinality as item (key, n)
                left join bank.transaction as t
                    on t.ledger_id = _post.ledger_id and t.idempotency_key = item.key
            ) as k;
            key_items := array_fill(null::integer, array[item_count]);
        end if;

        new_ids := nulls;
        debit_row_ids := nulls;
        credit_row_ids := nulls;
        replayed_ids := nulls;
        debit_balances := nulls;
        credit_balances := nulls;
        debit_versions := nulls;
        credit_versions := nulls;
        failure_codes := array_fill(null::text, array[item_count]);
        item_currencies := failure_codes;
        failure_details := array_fill(null::jsonb, array[item_count]);
        recorded_count := 0;
        stopped_by := null;

        for i in 1 .. item_count loop
            amount := amounts_minor[i];
            d := positions[debit_ranks[i]];
            c := positions[credit_ranks[i]];
            if (amount between 1 and 9007199254740991) is not true then
                failure_codes[i] := 'invalid_amount';
                failure_details[i] := '{"field": "amount_minor", "reason": "is not from 1 to 9007199254740991"}';
            elsif bank._posting_fault(idempotency_keys[i], descriptions[i], external_ids[i], metadatas[i]) is not null then
                failure_codes[i] := 'invalid_argument';
                failure_details[i] := bank._posting_fault(
                    idempotency_keys[i], descriptions[i], external_ids[i], metadatas[i]
                );
            elsif d is null or c is null then
                facts := bank._account_fault(
                    transaction_types[i], debit_account_ids[i], credit_account_ids[i], d is not null
                );
                failure_codes[i] := case facts ->> 'reason' when 'is required' then 'invalid_argument' else 'account_not_found' end;
                failure_details[i] := facts;
            elsif idempotency_keys[i] is not null and (used_ids[i] is not null or key_items[first_items[i]] is not null) then
                same := key_items[first_items[i]];
                if same is null then
                    select * into recorded from bank.posting as p
                    where p.ledger_id = _post.ledger_id and p.transaction_id = used_ids[i];
                else
                    recorded.transaction_id := new_ids[same];
                    recorded.transaction_type := transaction_types[same];
                    recorded.debit_account_id := debit_account_ids[same];
                    recorded.credit_account_id := credit_account_ids[same];
                    recorded.amount_minor := amounts_minor[same];
                    recorded.description := descriptions[same];
                    recorded.external_id := external_ids[same];
                    recorded.metadata := coalesce(metadatas[same], '{}');
                    recorded.failure_code := failure_codes[same];
                end if;
                facts := bank._reuse_facts(
                    recorded, transaction_types[i], debit_account_ids[i], credit_account_ids[i], amount,
                    descriptions[i], external_ids[i], metadatas[i]
                );
                if facts is not null then
                    failure_codes[i] := 'idempotency_key_reused';
                    failure_details[i] := facts;
                else
                    replayed_ids[i] := recorded.transaction_id;
                    failure_codes[i] := recorded.failure_code;
                end if;
            else
                failure_codes[i] := bank._rejection(
                    debit_account_ids[i] = credit_account_ids[i], statuses[d], statuses[c], currencies[d], currencies[c],
                    balances[d], availables[d], balances[c], amount
                );
                if failure_codes[i] is null then
                    balances[d] := balances[d] - amount;
                    balances[c] := balances[c] + amount;
                    availables[d] := availables[d] - amount;
                    availables[c] := availables[c] + amount;
                    versions[d] := versions[d] + 1;
                    versions[c] := versions[c] + 1;
                    debit_balances[i] := balances[d];
                    credit_balances[i] := balances[c];
                    debit_versions[i] := versions[d];
                    credit_versions[i] := versions[c];
                else
                    failure_details[i] := bank._rejection_facts(
                        failure_codes[i], debit_account_ids[i], credit_account_ids[i],
                        statuses[d], currencies[d], currencies[c], balances[d], availables[d], balances[c], amount
                    );
                end if;
                item_currencies[i] := currencies[d];
                new_ids[i] := nextval('bank.transaction_id_seq');
                debit_row_ids[i] := account_ids[d];
                credit_row_ids[i] := account_ids[c];
                recorded_count := recorded_count + 1;
                if idempotency_keys[i] is not null then
                    key_items[first_items[i]] := i;
                end if;
            end if;
            if atomic and failure_codes[i] is not null then
                stopped_by := i;
                exit;
            end if;
        end loop;

        if stopped_by is not null then
            for i in 1 .. item_count loop
                if i <> stopped_by then
                    new_ids[i] := null;
                    replayed_ids[i] := null;
                    failure_codes[i] := 'batch_aborted';
                    failure_details[i] := jsonb_build_object('field', 'atomic', 'reason', format('item %s was not posted', stopped_by), 'stopped_by', stopped_by);
                end if;
            end loop;
            recorded_count := (new_ids[stopped_by] is not null)::integer;
            debit_balances := nulls;
            credit_balances := nulls;
            debit_versions := nulls;
            credit_versions := nulls;
        end if;

        exit when recorded_count = 0;
        insert into bank.transaction (
            ledger_id, transaction_id, debit_account_id, credit_account_id, amount_minor, debit_version, credit_version,
            created_at, transaction_type, transaction_status, currency, failure_code, failure_detail,
            idempotency_key, description, external_id, metadata
        )
        select
            ledger_id, item.id, item.debit_id, item.credit_id, item.amount, item.debit_version, item.credit_version,
            posted_at, item.type,
            case when item.code is null then 'success' else 'failure' end::bank.transaction_status,
            item.currency, item.code, item.detail, item.key, item.description, item.external_id, nullif(item.metadata, '{}')
        from unnest(
            new_ids, debit_row_ids, credit_row_ids, amounts_minor, debit_versions, credit_versions,
            transaction_types, item_currencies, failure_codes, failure_details,
            idempotency_keys, descriptions, external_ids, metadatas
        ) as item (
            id, debit_id, credit_id, amount, debit_version, credit_version,
            type, currency, code, detail, key, description, external_id, metadata
        )
        where item.id is not null
        on conflict do nothing;
        get diagnostics inserted_count = row_count;
        exit when inserted_count = recorded_count;
        delete from bank.transaction as t where t.ledger_id = _post.ledger_id and t.transaction_id = any(new_ids);
    end loop;

    if recorded_count > 0 and stopped_by is null then
        insert into bank.entry (
            ledger_id, account_id, version, transaction_id, amount_minor, balance_after_minor, created_at
        )
        select ledger_id, side.account_id, side.version, item.id, side.amount, side.balance_after, posted_at
        from unnest(
            new_ids, debit_row_ids, credit_row_ids, amounts_minor,
            debit_versions, credit_versions, debit_balances, credit_balances
        ) as item (id, debit_id, credit_id, amount, debit_version, credit_version, debit_balance, credit_balance)
        cross join lateral (
            values
            (item.debit_id, item.debit_version, -item.amount, item.debit_balance),
            (item.credit_id, item.credit_version, item.amount, item.credit_balance)
        ) as side (account_id, version, amount, balance_after)
        where item.debit_version is not null;

        update bank.account as a
        set balance_minor = changed.balance, version = changed.version, last_entry_at = posted_at
        from unnest(account_ids, balances, versions, versions_before) as changed (id, balance, version, version_before)
        where a.ledger_id = _post.ledger_id and a.account_id = changed.id and changed.version <> changed.version_before;
    end if;

    for i in 1 .. item_count loop
        if replayed_ids[i] is not null then
            select * into result from bank.posting as p
            where p.ledger_id = _post.ledger_id and p.transaction_id = replayed_ids[i];
            result.replayed := true;
        else
            result := row(
                new_ids[i], transaction_types[i],
                case when failure_codes[i] is null then 'success' else 'failure' end,
                failure_codes[i], failure_details[i], amounts_minor[i], item_currencies[i],
                debit_account_ids[i], credit_account_ids[i],
                case when positions[debit_ranks[i]] < stripe_position then debit_balances[i] end,
                case when positions[credit_ranks[i]] < stripe_position then credit_balances[i] end,
                case when positions[debit_ranks[i]] < stripe_position then debit_versions[i] end,
                case when positions[credit_ranks[i]] < stripe_position then credit_versions[i] end,
                idempotency_keys[i], descriptions[i], external_ids[i],
                coalesce(metadatas[i], '{}'), case when new_ids[i] is not null then posted_at end, false, ledger_id
            );
        end if;
        return next result;
    end loop;
end
$$;
