-- The rules that can be told from a transaction with its legs, its hold, its captures and its reversals, for the ids
-- after after_id, null: from the first, up to last_id; holds have the ids of transactions.
create or replace function bank._verify_transactions(
    only_ledger_id bigint,
    after_id bigint,
    last_id bigint
) returns setof bank._violation
language plpgsql stable set plan_cache_mode = force_custom_plan as $$
begin
    return query
    with leg as (
        select
            t.ledger_id, t.transaction_id, t.transaction_type, t.transaction_status, t.created_at,
            side.account_id, side.version, side.amount_minor, t.currency
        from bank.transaction as t
        cross join lateral (
            values
            (t.debit_account_id, t.debit_version, -t.amount_minor),
            (t.credit_account_id, t.credit_version, t.amount_minor)
        ) as side (account_id, version, amount_minor)
        where (only_ledger_id is null or t.ledger_id = only_ledger_id)
            and (after_id is null or t.transaction_id > after_id)
            and t.transaction_id <= last_id
            and t.legs is null

        union all
        select
            t.ledger_id, t.transaction_id, t.transaction_type, t.transaction_status, t.created_at,
            case when x.stripe is null then x.account_id else bank._stripe_id(x.account_id, x.stripe) end,
            x.version, x.amount_minor, x.currency
        from bank.transaction as t
        cross join lateral jsonb_to_recordset(t.legs) as x (
            account_id bigint, amount_minor bigint, currency text, version bigint, stripe integer
        )
        where (only_ledger_id is null or t.ledger_id = only_ledger_id)
            and (after_id is null or t.transaction_id > after_id)
            and t.transaction_id <= last_id
            and t.legs is not null
    ), checked_leg as (
        select
            l.*,
            a.currency as account_currency,
            -- A success has exactly the entries that it names; a failure has none. An entry is later than its
            -- transaction where the account's last entry was ahead of the clock.
            l.transaction_status = 'success'
            and l.transaction_type not in ('hold', 'void')
            and (e.transaction_id = l.transaction_id and e.amount_minor = l.amount_minor and e.created_at >= l.created_at)
                is not true as without_entry,
            -- What foreign keys and a check over two tables would hold: the accounts exist and share the currency.
            a.account_id is null as account_missing,
            l.transaction_status = 'success' and a.currency <> l.currency as currency_differs
        -- In the order of the chains: neighbours are on the same page.
        from (select * from leg order by account_id, version) as l
        left join bank.entry as e
            on l.ledger_id = e.ledger_id and l.account_id = e.account_id and l.version = e.version
        left join bank.account as a on l.ledger_id = a.ledger_id and l.account_id = a.account_id
    ), reversed as (
        select x.ledger_id, x.original_transaction_id, sum(x.amount_minor) as reversed_minor, count(*) as reversals
        from bank.transaction as x
        where (only_ledger_id is null or x.ledger_id = only_ledger_id)
            and (after_id is null or x.original_transaction_id > after_id)
            and x.original_transaction_id <= last_id
            and x.transaction_type = 'reversal'
            and x.transaction_status = 'success'
        group by x.ledger_id, x.original_transaction_id
    )

    select
        v.violation, l.ledger_id, l.account_id, l.transaction_id, l.version,
        case v.violation
            when 'transaction_without_entry' then jsonb_build_object('amount_minor', l.amount_minor)
            else jsonb_build_object('currency', l.currency, 'account_currency', l.account_currency)
        end
    from checked_leg as l
    cross join lateral (
        values
        ('transaction_without_entry', l.without_entry),
        ('account_missing', l.account_missing),
        ('currency_differs', l.currency_differs)
    ) as v (violation, found)
    where v.found and (l.without_entry or l.account_missing or l.currency_differs)

    union all
    -- A hold is what was authorised, and its captures are those that were posted.
    select
        'hold_differs', coalesce(h.ledger_id, t.ledger_id), h.account_id, coalesce(h.hold_id, t.transaction_id), null,
        jsonb_build_object(
            'captured_minor', h.captured_minor, 'posted_minor', coalesce(c.captured_minor, 0), 'amount_minor', t.amount_minor
        )
    from (
        select *
        from bank.hold as x
        where (only_ledger_id is null or x.ledger_id = only_ledger_id)
            and (after_id is null or x.hold_id > after_id)
            and x.hold_id <= last_id
    ) as h
    full join (
        select x.ledger_id, x.transaction_id, x.debit_account_id, x.amount_minor
        from bank.transaction as x
        where (only_ledger_id is null or x.ledger_id = only_ledger_id)
            and (after_id is null or x.transaction_id > after_id)
            and x.transaction_id <= last_id
            and x.transaction_type = 'hold'
            and x.transaction_status = 'success'
    ) as t on h.ledger_id = t.ledger_id and h.hold_id = t.transaction_id
    left join lateral (
        select sum(x.amount_minor) as captured_minor
        from bank.transaction as x
        where x.ledger_id = h.ledger_id
            and x.original_transaction_id = h.hold_id
            and x.transaction_type = 'capture'
            and x.transaction_status = 'success'
    ) as c on true
    where (h.account_id, h.amount_minor, h.captured_minor)
        is distinct from (t.debit_account_id, t.amount_minor, coalesce(c.captured_minor, 0))

    union all
    -- No more is reversed than there was, and the original says how much was.
    select
        'reversal_exceeds_original', r.ledger_id, null, r.original_transaction_id, null,
        jsonb_build_object('reversed_minor', r.reversed_minor, 'amount_minor', t.amount_minor)
    from reversed as r
    left join lateral (
        select x.transaction_id, x.amount_minor, x.legs is not null as in_legs
        from bank.transaction as x
        where x.ledger_id = r.ledger_id
            and x.transaction_id = r.original_transaction_id
            and x.transaction_status = 'success'
        limit 1
    ) as t on true
    where t.transaction_id is null
        or not t.in_legs and r.reversed_minor > t.amount_minor
        or t.in_legs and r.reversals > 1

    union all
    select
        'reversed_differs', t.ledger_id, null, t.transaction_id, null,
        jsonb_build_object('reversed_minor', t.reversed_minor, 'posted_minor', r.reversed_minor)
    from bank.transaction as t
    left join reversed as r on t.ledger_id = r.ledger_id and t.transaction_id = r.original_transaction_id
    where (only_ledger_id is null or t.ledger_id = only_ledger_id)
        and (after_id is null or t.transaction_id > after_id)
        and t.transaction_id <= last_id
        and t.reversed_minor
        is distinct from case when t.legs is null or r.reversals is null then r.reversed_minor else t.amount_minor end

    union all
    -- Nothing is later than the clock: after a clock that leapt, `pgteller correct-times` mends it (docs/clock.md).
    select
        'transaction_from_the_future', t.ledger_id, t.debit_account_id, t.transaction_id, t.debit_version,
        jsonb_build_object('created_at', t.created_at)
    from bank.transaction as t
    where (only_ledger_id is null or t.ledger_id = only_ledger_id)
        and (after_id is null or t.transaction_id > after_id)
        and t.transaction_id <= last_id
        and t.created_at > clock_timestamp() + bank._clock_tolerance();
end
$$;
