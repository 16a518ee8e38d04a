-- The rules that can be told from an entry, for the entries after (after_account_id, after_version), after_account_id
-- null: from the first, up to and with (last_account_id, last_version), in the order of the chains. The entry at the
-- beginning is read too, for the next one follows from it, but judged by the slice before. rows_max: how many rows that
-- are at most; the planner cannot tell it from the bounds.
create or replace function bank._verify_entries(
    only_ledger_id bigint,
    after_account_id bigint,
    after_version bigint,
    last_account_id bigint,
    last_version bigint,
    rows_max bigint default null
) returns setof bank._violation
language plpgsql stable set plan_cache_mode = force_custom_plan as $$
begin
    return query
    with chained as (
        select
            x.*,
            lag(x.version, 1, 0) over chain as version_before,
            lag(x.balance_after_minor, 1, 0) over chain as balance_before_minor,
            lag(x.created_at, 1, '-infinity') over chain as created_before,
            lag(x.version) over chain is null as first_here
        from (
            select *
            from bank.entry as y
            where (only_ledger_id is null or y.ledger_id = only_ledger_id)
                and (after_account_id is null or (y.account_id, y.version) >= (after_account_id, after_version))
                and (y.account_id, y.version) <= (last_account_id, last_version)
            order by y.ledger_id, y.account_id, y.version
            limit rows_max
        ) as x
        where only_ledger_id is null or x.ledger_id = only_ledger_id
        window chain as (partition by x.ledger_id, x.account_id order by x.version)
    ), judged as (
        select
            c.*,
            c.first_here and a.account_id is null as account_missing,
            -- A hold and a void have no entries, whatever versions they name.
            t.legs is not null
            and t.transaction_status = 'success'
            and t.transaction_type not in ('hold', 'void') as perhaps_in_legs,
            -- The transaction names it as its debit or its credit.
            (
                t.legs is null
                and t.transaction_status = 'success'
                and t.transaction_type not in ('hold', 'void')
                and (
                    (c.account_id, c.version) = (t.debit_account_id, t.debit_version)
                    or (c.account_id, c.version) = (t.credit_account_id, t.credit_version)
                )
            ) is true as in_two_legs,
            -- Versions have no gaps, each balance follows from the one before, and time does not run back.
            case
                when c.version <> c.version_before + 1 then 'version_gap'
                when c.balance_after_minor <> c.balance_before_minor + c.amount_minor then 'balance_chain_broken'
                when c.created_at < c.created_before then 'time_runs_back'
            end as chain_fault,
            -- Nothing is later than the clock: after a clock that leapt, `pgteller correct-times` mends it
            -- (docs/clock.md).
            c.created_at > clock_timestamp() + bank._clock_tolerance() as from_the_future
        -- In the order of the transactions: neighbours are on the same page.
        from (select * from chained order by transaction_id) as c
        left join bank.transaction as t on c.ledger_id = t.ledger_id and c.transaction_id = t.transaction_id
        -- That an account is missing is told once.
        left join bank.account as a on c.ledger_id = a.ledger_id and c.account_id = a.account_id and c.first_here
        where (c.account_id, c.version) is distinct from (after_account_id, after_version)
    ), odd as materialized (
        select *
        from judged as j
        where j.chain_fault is not null or not j.in_two_legs or j.account_missing or j.from_the_future
    ), leg as (
        -- Each transaction is taken apart once, however many of its legs are among these entries.
        select
            named.ledger_id, named.transaction_id,
            case when y.stripe is null then y.account_id else bank._stripe_id(y.account_id, y.stripe) end as account_id,
            y.version
        from (select distinct o.ledger_id, o.transaction_id from odd as o where o.perhaps_in_legs) as named
        inner join bank.transaction as t
            on named.ledger_id = t.ledger_id and named.transaction_id = t.transaction_id
        cross join lateral jsonb_to_recordset(t.legs) as y (account_id bigint, version bigint, stripe integer)
    )

    select
        v.violation, o.ledger_id, o.account_id, o.transaction_id, o.version,
        case v.violation
            when 'entry_without_transaction' then jsonb_build_object('amount_minor', o.amount_minor)
            when 'account_missing' then '{}'
            when 'entry_from_the_future' then jsonb_build_object('created_at', o.created_at)
            else jsonb_build_object(
                'version_before', o.version_before, 'balance_before_minor', o.balance_before_minor,
                'amount_minor', o.amount_minor, 'balance_after_minor', o.balance_after_minor
            )
        end
    from odd as o
    left join leg as l
        on o.ledger_id = l.ledger_id and o.transaction_id = l.transaction_id
        and o.account_id = l.account_id and o.version = l.version
    cross join lateral (
        values
        (o.chain_fault, true),
        ('entry_without_transaction', not o.in_two_legs and l.transaction_id is null),
        ('account_missing', o.account_missing),
        ('entry_from_the_future', o.from_the_future)
    ) as v (violation, found)
    where v.found and v.violation is not null;
end
$$;
