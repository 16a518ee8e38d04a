-- The posting engine for many items: they are posted exactly as if bank._post_one had been called for one after
-- another in this order, but with a handful of statements in all. tests/sql/test_batch.py holds the two equal.
--
-- Item i moves amounts_minor[i] from debit_account_ids[i] to credit_account_ids[i]; a settlement account is named by a
-- null, as in bank._post_one. Returns a row an item, in order: what bank._post_one would have returned, or, where it
-- would have raised, a row without transaction_id whose failure_code and failure_detail are the error.
--
-- groups: neighbours with the same number, not null, are all posted or none of them. The first item of a group that is
-- not posted stops it; its rejection is recorded as always, and every other item of the group has failure_code
-- batch_aborted, is not recorded, and keeps its idempotency key for another time.
--
-- Limits of accounts are read once, used in memory item by item, and written once.
--
-- Locks: all accounts of the batch, FOR NO KEY UPDATE, in ascending account_id, then one stripe of each striped
-- account, until the caller's transaction ends.
-- Keys are not looked up before they are needed: nearly always all are new, and then the insert is the proof. Where it
-- meets a used one, what was inserted is taken back, the keys are looked up in a statement of its own (a lock wait does
-- not refresh the snapshot of the statement that waited), and the batch is decided again.
create or replace function bank._post(
    transaction_types bank.transaction_type[],
    debit_account_ids bigint[],
    credit_account_ids bigint[],
    amounts_minor bigint[],
    idempotency_keys text[],
    descriptions text[],
    external_ids text[],
    metadatas jsonb[],
    groups integer[],
    ledger_id bigint
) returns setof bank.posting
language plpgsql as $$
declare
    item_count constant integer := cardinality(amounts_minor);
    nulls constant bigint[] := array_fill(null::bigint, array[item_count]);
    -- Accounts in ascending id, then one stripe of each striped account; positions leads from the rank of an id to its
    -- place here, and is null when unknown.
    ranked_ids bigint[];
    positions integer[];
    account_ids bigint[];
    statuses bank.account_status[];
    currencies text[];
    balances bigint[];
    helds bigint[];
    overdraft_limits bigint[];
    versions bigint[];
    versions_before bigint[];
    last_entry_times timestamptz[];
    limiteds boolean[];
    stripe bank._postable;
    latest_entry_at timestamptz;
    posted_at timestamptz;
    -- Limits of the accounts: the place of an account has a slot for each kind, null where there is no such limit.
    limit_kinds bank.limit_kind[];
    kind_count integer;
    account_limit bank.account_limit;
    limit_amounts bigint[];
    limit_counts bigint[];
    used_minors numeric[]; -- a sum of many amounts may pass bigint
    used_counts bigint[];
    used_counts_before bigint[];
    slot integer;
    -- Items. first_items: the first item with the same key. used_ids: the transaction that used the key before.
    debit_ranks integer[];
    credit_ranks integer[];
    first_items integer[];
    used_ids bigint[];
    key_items bigint[];
    -- Outcomes. new_ids: transactions of this call; replayed_ids: of an earlier call, or of an earlier item.
    new_ids bigint[];
    debit_row_ids bigint[];
    credit_row_ids bigint[];
    replayed_ids bigint[];
    replayed_times timestamptz[] := array_fill(null::timestamptz, array[item_count]);
    failure_codes text[];
    failure_details jsonb[];
    item_currencies text[];
    debit_balances bigint[];
    credit_balances bigint[];
    debit_versions bigint[];
    credit_versions bigint[];
    -- Of the entries, where the account's last one is ahead of the clock; else they have the clock's time.
    debit_times timestamptz[];
    credit_times timestamptz[];
    recorded_count integer;
    group_start integer; -- first item of the group of the item in hand
    stopped_by integer; -- the item that stopped that group
    any_stopped boolean;
    any_limited boolean;
    any_held boolean;
    any_ahead boolean;
    any_replayed boolean;
    looked_up boolean := false;
    amount bigint;
    debit_balance bigint;
    credit_balance bigint;
    failure_code text;
    d integer;
    c integer;
    same integer;
    texts_faulty constant boolean := exists (
        select from unnest(idempotency_keys, descriptions, external_ids, metadatas)
            as item (key, description, external_id, metadata)
        where bank._posting_fault(item.key, item.description, item.external_id, item.metadata) is not null
    );
    facts jsonb;
    recorded bank.posting;
begin
    if array_position(debit_account_ids, null) is not null
        or array_position(credit_account_ids, null) is not null
        or array_position(transaction_types, 'credit') is not null -- a debit account that is given is not looked at
    then
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

    if idempotency_keys is not null then
        select array_agg(k.first_item order by k.n)
        into first_items
        from (
            select item.n, min(item.n) over (partition by item.key collate "default") as first_item
            from unnest(idempotency_keys) with ordinality as item (key, n)
        ) as k;
    end if;

    loop
        select
            array_agg(a.account_id),
            array_agg(a.account_status),
            array_agg(a.currency),
            array_agg(a.balance_minor),
            array_agg(a.held_minor),
            array_agg(a.overdraft_limit_minor),
            array_agg(a.version),
            array_agg(a.last_entry_at),
            array_agg(a.limited),
            max(a.last_entry_at),
            coalesce(bool_or(a.limited), false),
            coalesce(bool_or(a.held_minor > 0), false)
        into
            account_ids, statuses, currencies, balances, helds, overdraft_limits, versions, last_entry_times, limiteds,
            latest_entry_at, any_limited, any_held
        from (
            select
                x.account_id, x.account_status, x.currency, x.balance_minor, x.held_minor, x.overdraft_limit_minor,
                x.version, x.last_entry_at, x.limited
            from bank.account as x
            where x.ledger_id = _post.ledger_id and x.account_id = any(ranked_ids) and x.stripes = 0
            order by x.account_id
            for no key update
        ) as a;

        if any_held then
            perform bank._end_expired_holds(a.account_id, _post.ledger_id)
            from bank.account as a
            where a.ledger_id = _post.ledger_id and a.account_id = any(account_ids) and a.held_minor > 0;
            select array_agg(a.held_minor order by a.account_id) into helds
            from bank.account as a
            where a.ledger_id = _post.ledger_id and a.account_id = any(account_ids);
        end if;

        positions := array_fill(null::integer, array[cardinality(ranked_ids)]);
        d := 1;
        for i in 1 .. cardinality(ranked_ids) loop
            if account_ids[d] = ranked_ids[i] then
                positions[i] := d;
                d := d + 1;
            end if;
        end loop;
        for i in 1 .. cardinality(ranked_ids) loop
            if positions[i] is null then
                stripe := bank._lock_stripe(ranked_ids[i], ledger_id);
                if stripe.account_id is not null then
                    account_ids := account_ids || stripe.account_id;
                    statuses := statuses || stripe.account_status;
                    currencies := currencies || stripe.currency;
                    balances := balances || stripe.balance_minor;
                    helds := helds || stripe.held_minor;
                    overdraft_limits := overdraft_limits || stripe.overdraft_limit_minor;
                    versions := versions || stripe.version;
                    last_entry_times := last_entry_times || stripe.last_entry_at;
                    latest_entry_at := greatest(latest_entry_at, stripe.last_entry_at);
                    limiteds := limiteds || stripe.limited;
                    positions[i] := cardinality(account_ids);
                end if;
            end if;
        end loop;
        versions_before := versions;
        posted_at := clock_timestamp();
        any_ahead := coalesce(latest_entry_at > posted_at, false);

        if any_limited then
            limit_kinds := enum_range(null::bank.limit_kind);
            kind_count := cardinality(limit_kinds);
            limit_amounts := array_fill(null::bigint, array[kind_count * cardinality(account_ids)]);
            limit_counts := limit_amounts;
            used_counts := limit_amounts;
            used_minors := array_fill(null::numeric, array[cardinality(limit_amounts)]);
            d := 1;
            for account_limit in
                select * from bank.account_limit as l
                where l.ledger_id = _post.ledger_id and l.account_id = any(account_ids)
                order by l.account_id
            loop
                while account_ids[d] <> account_limit.account_id loop
                    d := d + 1;
                end loop;
                slot := kind_count * (d - 1) + array_position(limit_kinds, account_limit.limit_kind);
                limit_amounts[slot] := account_limit.amount_max_minor;
                limit_counts[slot] := account_limit.count_max;
                if bank._window_start(account_limit.limit_kind, posted_at) is not null then
                    used_minors[slot] := 0;
                    used_counts[slot] := 0;
                    if account_limit.window_started_at = bank._window_start(account_limit.limit_kind, posted_at) then
                        used_minors[slot] := account_limit.used_minor;
                        used_counts[slot] := account_limit.used_count;
                    end if;
                end if;
            end loop;
            used_counts_before := used_counts;
        end if;

        if looked_up then
            select array_agg((
                select t.transaction_id from bank.transaction as t
                where t.ledger_id = _post.ledger_id and t.idempotency_key = item.key collate "default"
            ) order by item.n)
            into used_ids
            from unnest(idempotency_keys) with ordinality as item (key, n);
        end if;
        key_items := nulls;

        new_ids := nulls;
        debit_row_ids := nulls;
        credit_row_ids := nulls;
        replayed_ids := nulls;
        debit_balances := nulls;
        credit_balances := nulls;
        debit_versions := nulls;
        credit_versions := nulls;
        debit_times := null;
        credit_times := null;
        failure_codes := array_fill(null::text, array[item_count]);
        item_currencies := failure_codes;
        failure_details := array_fill(null::jsonb, array[item_count]);
        recorded_count := 0;
        group_start := 1;
        stopped_by := null;
        any_stopped := false;
        any_replayed := false;

        for i in 1 .. item_count loop
            if groups[i] is distinct from groups[group_start] or groups[i] is null then
                group_start := i;
                stopped_by := null;
            end if;
            if stopped_by is not null then
                failure_codes[i] := 'batch_aborted';
                failure_details[i] := bank._aborted_facts(stopped_by);
                continue;
            end if;

            amount := amounts_minor[i];
            d := positions[debit_ranks[i]];
            c := positions[credit_ranks[i]];
            if (amount between 1 and 9007199254740991) is not true then
                failure_codes[i] := 'invalid_amount';
                failure_details[i] := '{"field": "amount_minor", "reason": "is not from 1 to 9007199254740991"}';
            elsif texts_faulty
                and bank._posting_fault(idempotency_keys[i], descriptions[i], external_ids[i], metadatas[i]) is not null then
                failure_codes[i] := 'invalid_argument';
                failure_details[i] := bank._posting_fault(
                    idempotency_keys[i], descriptions[i], external_ids[i], metadatas[i]
                );
            elsif d is null or c is null then
                facts := bank._account_fault(
                    transaction_types[i], debit_account_ids[i], credit_account_ids[i], d is not null
                );
                failure_codes[i] := bank._account_fault_code(facts);
                failure_details[i] := facts;
            elsif idempotency_keys[i] is not null and (used_ids[i] is not null or key_items[first_items[i]] is not null) then
                same := key_items[first_items[i]];
                if same is null then
                    select * into recorded from bank.posting as p
                    where p.ledger_id = _post.ledger_id and p.transaction_id = used_ids[i];
                else
                    recorded := null; -- it may be what another item found
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
                    any_replayed := true;
                    failure_codes[i] := recorded.failure_code;
                end if;
            else
                debit_balance := balances[d];
                credit_balance := balances[c];
                failure_code := bank._rejection(
                    debit_account_ids[i] = credit_account_ids[i], statuses[d], statuses[c], currencies[d], currencies[c],
                    debit_balance - helds[d], debit_balance - helds[d] + overdraft_limits[d], credit_balance, amount
                );
                if failure_code is not null then
                    failure_details[i] := bank._rejection_facts(
                        failure_code, debit_account_ids[i], credit_account_ids[i],
                        statuses[d], currencies[d], currencies[c],
                        debit_balance - helds[d], debit_balance - helds[d] + overdraft_limits[d], credit_balance, amount
                    );
                elsif any_limited and (limiteds[d] or limiteds[c]) then
                    for k in 1 .. kind_count loop
                        slot := kind_count * (case limit_kinds[k] when 'maximum_balance' then c else d end - 1) + k;
                        failure_code := bank._limit_code(
                            limit_kinds[k], limit_amounts[slot], limit_counts[slot], used_minors[slot], used_counts[slot],
                            debit_balance - helds[d] - amount, credit_balance + amount, amount, amount, 1
                        );
                        if failure_code is not null then
                            failure_details[i] := bank._limit_facts(
                                failure_code, case limit_kinds[k] when 'maximum_balance' then credit_account_ids[i] else debit_account_ids[i] end,
                                limit_amounts[slot], limit_counts[slot],
                                least(used_minors[slot], 9007199254740991), used_counts[slot]
                            );
                            exit;
                        end if;
                    end loop;
                end if;
                if failure_code is null then
                    balances[d] := debit_balance - amount;
                    balances[c] := credit_balance + amount;
                    versions[d] := versions[d] + 1;
                    versions[c] := versions[c] + 1;
                    debit_balances[i] := debit_balance - amount;
                    credit_balances[i] := credit_balance + amount;
                    debit_versions[i] := versions[d];
                    credit_versions[i] := versions[c];
                    if any_ahead then
                        debit_times[i] := greatest(posted_at, last_entry_times[d]);
                        credit_times[i] := greatest(posted_at, last_entry_times[c]);
                    end if;
                    if any_limited and limiteds[d] then
                        for s in kind_count * (d - 1) + 1 .. kind_count * d loop
                            used_minors[s] := used_minors[s] + amount;
                            used_counts[s] := used_counts[s] + 1;
                        end loop;
                    end if;
                end if;
                failure_codes[i] := failure_code;
                item_currencies[i] := currencies[d];
                new_ids[i] := nextval('bank.transaction_id_seq');
                debit_row_ids[i] := account_ids[d];
                credit_row_ids[i] := account_ids[c];
                recorded_count := recorded_count + 1;
                if idempotency_keys[i] is not null then
                    key_items[first_items[i]] := i;
                end if;
            end if;
            if groups[i] is not null and failure_codes[i] is not null then
                stopped_by := i;
                any_stopped := true;
                for j in reverse i - 1 .. group_start loop
                    if new_ids[j] is not null then
                        d := positions[debit_ranks[j]];
                        c := positions[credit_ranks[j]];
                        balances[d] := balances[d] + amounts_minor[j];
                        balances[c] := balances[c] - amounts_minor[j];
                        versions[d] := versions[d] - 1;
                        versions[c] := versions[c] - 1;
                        if any_limited and limiteds[d] then
                            for s in kind_count * (d - 1) + 1 .. kind_count * d loop
                                used_minors[s] := used_minors[s] - amounts_minor[j];
                                used_counts[s] := used_counts[s] - 1;
                            end loop;
                        end if;
                        debit_balances[j] := null;
                        credit_balances[j] := null;
                        debit_versions[j] := null;
                        credit_versions[j] := null;
                        item_currencies[j] := null;
                        new_ids[j] := null;
                        recorded_count := recorded_count - 1;
                        if idempotency_keys[j] is not null then
                            key_items[first_items[j]] := null;
                        end if;
                        if idempotency_keys[j] = idempotency_keys[i] collate "default" then
                            failure_details[i] := failure_details[i] - 'transaction_id'; -- it is there no more
                        end if;
                    end if;
                    replayed_ids[j] := null;
                    failure_codes[j] := 'batch_aborted';
                    failure_details[j] := bank._aborted_facts(i);
                end loop;
            end if;
        end loop;

        if any_stopped and idempotency_keys is not null and not looked_up then
            -- An earlier item may be a replay that stops its group before this one does.
            looked_up := true;
            continue;
        end if;

        exit when recorded_count = 0;
        begin
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
            order by item.key collate "default";
            exit;
        exception
            when unique_violation then
                -- A fixed snapshot cannot see the key that is in the way: only a new transaction can decide.
                if looked_up and current_setting('transaction_isolation') <> 'read committed' then
                    raise serialization_failure;
                end if;
                -- Every round sees keys that were not there before. What is in the way and is no key is an id.
                perform bank._raise_sequence_behind('transaction_id', t.transaction_id)
                from bank.transaction as t
                where t.ledger_id = _post.ledger_id and t.transaction_id = any(new_ids);
                looked_up := true;
        end;
    end loop;

    if recorded_count > 0 then
        insert into bank.entry (
            ledger_id, account_id, version, transaction_id, amount_minor, balance_after_minor, created_at
        )
        select
            ledger_id, side.account_id, side.version, item.id, side.amount, side.balance_after,
            coalesce(side.entry_time, posted_at)
        from unnest(
            new_ids, debit_row_ids, credit_row_ids, amounts_minor,
            debit_versions, credit_versions, debit_balances, credit_balances, debit_times, credit_times
        ) as item (
            id, debit_id, credit_id, amount,
            debit_version, credit_version, debit_balance, credit_balance, debit_time, credit_time
        )
        cross join lateral (
            values
            (item.debit_id, item.debit_version, -item.amount, item.debit_balance, item.debit_time),
            (item.credit_id, item.credit_version, item.amount, item.credit_balance, item.credit_time)
        ) as side (account_id, version, amount, balance_after, entry_time)
        where item.debit_version is not null
        order by side.account_id, side.version;

        update bank.account as a
        set balance_minor = changed.balance,
            version = changed.version,
            last_entry_at = greatest(posted_at, a.last_entry_at)
        from unnest(account_ids, balances, versions, versions_before) as changed (id, balance, version, version_before)
        where a.ledger_id = _post.ledger_id and a.account_id = changed.id and changed.version <> changed.version_before;

        if any_limited then
            update bank.account_limit as l
            set used_minor = least(changed.used_minor, 9007199254740991), -- as bank._use_limits
                used_count = changed.used_count,
                window_started_at = bank._window_start(l.limit_kind, posted_at)
            from (
                select
                    account_ids[(used.slot - 1) / kind_count + 1] as account_id,
                    limit_kinds[(used.slot - 1) % kind_count + 1] as limit_kind,
                    used.minor as used_minor,
                    used.count as used_count
                from unnest(used_minors, used_counts, used_counts_before)
                    with ordinality as used (minor, count, count_before, slot)
                where used.count <> used.count_before
            ) as changed
            where l.ledger_id = _post.ledger_id
                -- Named once more, so that the index is used also before the table was ever analysed.
                and l.account_id = any(account_ids)
                and l.account_id = changed.account_id
                and l.limit_kind = changed.limit_kind;
        end if;
    end if;

    if any_replayed then
        for i in 1 .. item_count loop
            if replayed_ids[i] is not null then
                select * into recorded from bank.posting as p
                where p.ledger_id = _post.ledger_id and p.transaction_id = replayed_ids[i];
                failure_details[i] := recorded.failure_detail;
                item_currencies[i] := recorded.currency;
                debit_row_ids[i] := recorded.debit_account_id; -- the view hides what is of a stripe
                credit_row_ids[i] := recorded.credit_account_id;
                debit_balances[i] := recorded.debit_balance_after_minor;
                credit_balances[i] := recorded.credit_balance_after_minor;
                debit_versions[i] := recorded.debit_version;
                credit_versions[i] := recorded.credit_version;
                replayed_times[i] := recorded.created_at;
            end if;
        end loop;
    end if;

    return query
    select
        coalesce(item.id, item.replayed_id), item.type,
        case when item.code is null then 'success' else 'failure' end::bank.transaction_status,
        item.code, item.detail, item.amount, item.currency,
        item.debit_id, item.credit_id,
        case when item.debit_id = item.debit_row_id then item.debit_balance end,
        case when item.credit_id = item.credit_row_id then item.credit_balance end,
        case when item.debit_id = item.debit_row_id then item.debit_version end,
        case when item.credit_id = item.credit_row_id then item.credit_version end,
        item.key, item.description, item.external_id, coalesce(item.metadata, '{}'),
        case when item.id is not null then posted_at else item.replayed_at end,
        item.replayed_id is not null, ledger_id,
        null::bigint, null::bigint, null::numeric, null::numeric, null::jsonb
    from unnest(
        new_ids, replayed_ids, replayed_times, transaction_types, failure_codes, failure_details,
        amounts_minor, item_currencies, debit_account_ids, credit_account_ids, debit_row_ids, credit_row_ids,
        debit_balances, credit_balances, debit_versions, credit_versions,
        idempotency_keys, descriptions, external_ids, metadatas
    ) with ordinality as item (
        id, replayed_id, replayed_at, type, code, detail,
        amount, currency, debit_id, credit_id, debit_row_id, credit_row_id,
        debit_balance, credit_balance, debit_version, credit_version,
        key, description, external_id, metadata, n
    )
    order by item.n;
end
$$;
