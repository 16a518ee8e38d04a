-- The posting engine for one transaction of any number of legs: leg n changes account_ids[n] by amounts_minor[n], a
-- debit less than zero, a credit more. bank._post_one does the same for two legs with far less work, and
-- tests/sql/test_two_legs.py holds the two equal.
--
-- An account is judged by what it has after all legs; its credits are entered before its debits, so that no balance
-- after is lower than the last. The caller has checked that there are legs, whole and in range, that sum to zero.
-- conditions: see bank.post_legs; null: none. prior_code, prior_detail, request: as in bank._post_one.
--
-- Checks, in this order: invalid_argument, account_not_found, account_striped (in a condition) raise; a used
-- idempotency key replays or raises idempotency_key_reused; then prior_code, account_closed, account_frozen,
-- currency_mismatch (a currency that does not sum to zero), insufficient_funds, balance_overflow, limits,
-- condition_failed, as the catalogue orders them, each over all legs in order.
-- Locks: all accounts, FOR NO KEY UPDATE, in ascending account_id, then one stripe of each striped account.
create or replace function bank._post_legs(
    transaction_type bank.transaction_type,
    account_ids bigint[],
    amounts_minor bigint[],
    conditions jsonb,
    idempotency_key text,
    description text,
    external_id text,
    metadata jsonb,
    ledger_id bigint,
    original_transaction_id bigint default null,
    prior_code text default null,
    prior_detail jsonb default null,
    exchange_rate numeric default null,
    exchange_residue_minor numeric default null,
    request jsonb default null
) returns bank.posting
language plpgsql as $$
declare
    leg_count constant integer := cardinality(account_ids);
    stored_metadata constant jsonb := nullif(metadata, '{}');
    fault jsonb := bank._posting_fault(idempotency_key, description, external_id, metadata);
    distinct_ids bigint[];
    locked bank._postable[];
    account bank._postable;
    row_ids bigint[]; -- of the accounts, or their stripes
    places integer[]; -- of each leg's account in distinct_ids
    nets bigint[];
    credits bigint[];
    balances bigint[];
    versions bigint[];
    leg_balances bigint[] := array_fill(null::bigint, array[leg_count]);
    leg_versions bigint[] := array_fill(null::bigint, array[leg_count]);
    given_legs jsonb;
    legs jsonb;
    debit_leg integer;
    credit_leg integer;
    total_minor bigint;
    failure_code text := prior_code;
    failure_detail jsonb := case when prior_code is not null then prior_detail end;
    posted_id bigint;
    posted_at timestamptz;
    result bank.posting;
begin
    if fault is not null then
        perform bank._raise('invalid_argument', fault);
    end if;

    select array_agg(distinct id order by id) into distinct_ids from unnest(account_ids) as id;
    for i in 1 .. cardinality(distinct_ids) loop
        select * into account from bank._postable as a
        where a.ledger_id = _post_legs.ledger_id and a.account_id = distinct_ids[i] and a.stripes = 0
        for no key update;
        locked[i] := account;
    end loop;
    for i in 1 .. cardinality(distinct_ids) loop
        account := locked[i];
        if account.account_id is null then
            account := bank._lock_stripe(distinct_ids[i], ledger_id);
            locked[i] := account;
        end if;
        if account.account_id is null then
            perform bank._raise('account_not_found', jsonb_build_object(
                'field', 'account_ids', 'reason', 'has an account that does not exist', 'account_id', distinct_ids[i]
            ));
        end if;
        if account.held_minor > 0 then
            account.held_minor := coalesce(bank._end_expired_holds(account.account_id, ledger_id), account.held_minor);
            locked[i] := account;
        end if;
        row_ids[i] := account.account_id;
        nets[i] := 0;
        credits[i] := 0;
        balances[i] := account.balance_minor;
        versions[i] := account.version;
    end loop;
    posted_at := clock_timestamp();

    select jsonb_build_object(
        'field', 'conditions', 'reason', 'has an account that is striped', 'account_id', account_id
    ) into fault
    from jsonb_to_recordset(conditions) as condition (account_id bigint)
    where (locked[array_position(distinct_ids, account_id)]).stripes < 0
    limit 1;
    if found then
        perform bank._raise('account_striped', fault);
    end if;

    for n in 1 .. leg_count loop
        places[n] := array_position(distinct_ids, account_ids[n]);
        nets[places[n]] := nets[places[n]] + amounts_minor[n];
        credits[places[n]] := credits[places[n]] + greatest(amounts_minor[n], 0);
        if amounts_minor[n] < 0 then
            debit_leg := coalesce(debit_leg, n);
        else
            credit_leg := coalesce(credit_leg, n);
        end if;
    end loop;

    if failure_code is null then
        select checked.code, checked.detail into failure_code, failure_detail
        from (
            select n, 'account_closed' as code, jsonb_build_object('account_id', leg.id) as detail
            from unnest(account_ids, places) with ordinality as leg (id, place, n)
            where (locked[leg.place]).account_status = 'closed'

            union all
            select n, 'account_frozen', jsonb_build_object('account_id', leg.id)
            from unnest(account_ids, places, amounts_minor) with ordinality as leg (id, place, amount, n)
            where (locked[leg.place]).account_status = 'frozen'
                or (locked[leg.place]).account_status = 'debits_frozen' and leg.amount < 0
                or (locked[leg.place]).account_status = 'credits_frozen' and leg.amount > 0

            union all
            select min(n), 'currency_mismatch', jsonb_build_object(
                'currency', (locked[leg.place]).currency, 'sum_minor', sum(leg.amount)
            )
            from unnest(places, amounts_minor) with ordinality as leg (place, amount, n)
            group by (locked[leg.place]).currency
            having sum(leg.amount) <> 0

            union all
            select leg.n, 'insufficient_funds', jsonb_build_object(
                'account_id', leg.id, 'needed_minor', -leg.net, 'available_minor', leg.available
            )
            from (
                select
                    x.n, x.id, nets[x.place] as net,
                    (locked[x.place]).balance_minor - (locked[x.place]).held_minor
                    + (locked[x.place]).overdraft_limit_minor as available
                from unnest(account_ids, places) with ordinality as x (id, place, n)
            ) as leg
            where leg.net < 0 and leg.available < -leg.net

            union all
            select leg.n, 'balance_overflow', jsonb_build_object('account_id', leg.id, 'amount_minor', abs(nets[leg.place]))
            from unnest(account_ids, places) with ordinality as leg (id, place, n)
            where nets[leg.place] < 0
                and balances[leg.place] - (locked[leg.place]).held_minor + nets[leg.place] < -9007199254740991
                or balances[leg.place] + credits[leg.place] > 9007199254740991

            union all
            select leg.n, leg.passed ->> 'failure_code', leg.passed - 'failure_code'
            from (
                select
                    x.n,
                    bank._limit_rejection(
                        case when nets[x.place] < 0 then x.id end,
                        case when nets[x.place] > 0 then x.id end,
                        balances[x.place] - (locked[x.place]).held_minor + nets[x.place],
                        balances[x.place] + nets[x.place],
                        case when transaction_type <> 'reversal' then -nets[x.place] end,
                        case when transaction_type <> 'reversal' then -nets[x.place] end,
                        case when transaction_type <> 'reversal' then 1 end,
                        posted_at, ledger_id
                    ) as passed
                from unnest(account_ids, places) with ordinality as x (id, place, n)
                where (locked[x.place]).limited
            ) as leg
            where leg.passed is not null

            union all
            select condition.n, 'condition_failed', condition.value || jsonb_build_object(
                'balance_minor', balances[condition.place] + nets[condition.place], 'version_before', versions[condition.place]
            )
            from (
                select x.n, x.value, array_position(distinct_ids, (x.value ->> 'account_id')::bigint) as place
                from jsonb_array_elements(conditions) with ordinality as x (value, n)
            ) as condition
            where balances[condition.place] + nets[condition.place] < (condition.value ->> 'balance_at_least_minor')::bigint
                or balances[condition.place] + nets[condition.place] > (condition.value ->> 'balance_at_most_minor')::bigint
                or versions[condition.place] <> (condition.value ->> 'version')::bigint
        ) as checked (n, code, detail)
        order by (select e.precedence from bank.error as e where e.code = checked.code), checked.n
        limit 1;
    end if;

    if failure_code is null then
        for pass in 1 .. 2 loop -- credits, then debits
            for n in 1 .. leg_count loop
                if (amounts_minor[n] > 0) = (pass = 1) then
                    balances[places[n]] := balances[places[n]] + amounts_minor[n];
                    versions[places[n]] := versions[places[n]] + 1;
                    leg_balances[n] := balances[places[n]];
                    leg_versions[n] := versions[places[n]];
                end if;
            end loop;
        end loop;
    end if;
    select
        jsonb_agg(jsonb_build_object('account_id', leg.id, 'amount_minor', leg.amount) order by n),
        jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
            'account_id', leg.id,
            'amount_minor', leg.amount,
            'currency', (locked[leg.place]).currency,
            'version', leg.version,
            'balance_after_minor', case when (locked[leg.place]).stripes = 0 then leg.balance end,
            'stripe', case
                when (locked[leg.place]).stripes < 0
                    then (locked[leg.place]).account_id - bank._stripe_id(leg.id, 0)
            end
        )) order by n),
        -sum(leg.amount) filter (
            where leg.amount < 0 and (locked[leg.place]).currency = (locked[places[debit_leg]]).currency
        )
    into given_legs, legs, total_minor
    from unnest(account_ids, amounts_minor, places, leg_versions, leg_balances) with ordinality
    as leg (id, amount, place, version, balance, n);
    total_minor := least(total_minor, 9007199254740991);

    posted_id := nextval('bank.transaction_id_seq');
    insert into bank.transaction (
        ledger_id, transaction_id, debit_account_id, credit_account_id, amount_minor, debit_version, credit_version,
        created_at, transaction_type, transaction_status, currency, failure_code, failure_detail,
        idempotency_key, description, external_id, metadata, original_transaction_id,
        exchange_rate, exchange_residue_minor, legs, request
    ) values (
        ledger_id, posted_id, (locked[places[debit_leg]]).account_id, (locked[places[credit_leg]]).account_id, total_minor,
        leg_versions[debit_leg], leg_versions[credit_leg],
        posted_at, transaction_type,
        case when failure_code is null then 'success' else 'failure' end::bank.transaction_status,
        (locked[places[debit_leg]]).currency, failure_code, failure_detail,
        idempotency_key, description, external_id, stored_metadata, original_transaction_id,
        exchange_rate, exchange_residue_minor, legs, request
    ) on conflict do nothing;
    if not found then
        return bank._replay(
            posted_id, transaction_type, account_ids[debit_leg], account_ids[credit_leg], total_minor,
            idempotency_key, description, external_id, stored_metadata, ledger_id, original_transaction_id, given_legs,
            request
        );
    end if;

    if failure_code is null then
        insert into bank.entry (
            ledger_id, account_id, version, transaction_id, amount_minor, balance_after_minor, created_at
        )
        select
            ledger_id, (locked[leg.place]).account_id, leg.version, posted_id, leg.amount, leg.balance,
            greatest(posted_at, (locked[leg.place]).last_entry_at)
        from unnest(places, amounts_minor, leg_versions, leg_balances) as leg (place, amount, version, balance);

        update bank.account as a
        set balance_minor = changed.balance,
            version = changed.version,
            last_entry_at = greatest(posted_at, a.last_entry_at)
        from unnest(row_ids, balances, versions) as changed (id, balance, version)
        where a.ledger_id = _post_legs.ledger_id and a.account_id = changed.id;

        perform bank._use_limits((locked[i]).account_id, -nets[i], 1, posted_at, ledger_id)
        from generate_subscripts(nets, 1) as i
        where (locked[i]).limited and nets[i] < 0 and transaction_type <> 'reversal';
    end if;

    select * into strict result from bank.posting as p
    where p.ledger_id = _post_legs.ledger_id and p.transaction_id = posted_id;
    return result;
end
$$;
