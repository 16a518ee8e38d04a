-- The rules that can be told from a row of account and what belongs to it, for the rows after after_id, null: from the
-- first, up to last_id, stripes among them. only_ledger_id null: of all ledgers.
create or replace function bank._verify_accounts(
    only_ledger_id bigint,
    after_id bigint,
    last_id bigint
) returns setof bank._violation
-- A plan for these bounds: one for all bounds would be made for a part of the table that is never read.
language plpgsql stable set plan_cache_mode = force_custom_plan as $$
begin
    return query
    with checked as (
        select
            a.*,
            e.transaction_id as entry_transaction_id,
            e.version as entry_version,
            e.balance_after_minor as entry_balance_minor,
            h.open_minor,
            main.stripes as main_stripes,
            main.account_status as main_status,
            main.currency as main_currency,
            -- An account's balance, version and last time are those of its last entry.
            (a.balance_minor, a.version, a.last_entry_at) is distinct from
            (coalesce(e.balance_after_minor, 0), coalesce(e.version, 0), coalesce(e.created_at, '-infinity'))
                as differs_from_last_entry,
            -- No balance passes its limit.
            a.balance_minor - a.held_minor < -a.overdraft_limit_minor as limit_passed,
            -- What is held is what is left of the open holds.
            a.held_minor <> coalesce(h.open_minor, 0) as held_differs,
            -- Postings look at limits only where the account says that there are some.
            a.limited <> exists (
                select from bank.account_limit as l where l.ledger_id = a.ledger_id and l.account_id = a.account_id
            ) as limit_overlooked,
            -- A stripe is of an account without limit, and agrees with it; postings read the stripe alone.
            a.stripes < 0
            and (
                (a.account_status, a.currency, a.stripes = -1) is distinct from
                (main.account_status, main.currency, a.account_id < bank._stripe_id(main.account_id, main.stripes))
                or coalesce(main.overdraft_limit_minor, a.overdraft_limit_minor) is not null
            ) as stripe_differs,
            a.stripes > 0
            and a.stripes <> (
                select count(*)
                from bank.account as s
                where s.ledger_id = a.ledger_id
                    and s.account_id between bank._stripe_id(a.account_id, 0) and bank._stripe_id(a.account_id, 63)
                    and s.stripes = -1
            ) as stripe_missing
        from bank.account as a
        left join lateral (
            select x.*
            from bank.entry as x
            where x.ledger_id = a.ledger_id and x.account_id = a.account_id
            order by x.version desc
            limit 1
        ) as e on true
        left join lateral (
            select sum(greatest(x.amount_minor - x.captured_minor, 0)) as open_minor
            from bank.hold as x
            where x.ledger_id = a.ledger_id and x.account_id = a.account_id and x.hold_status = 'open'
        ) as h on true
        left join lateral (
            select x.*
            from bank.account as x
            where x.ledger_id = a.ledger_id and x.account_id = bank._account_of(a.account_id) and a.stripes < 0
            limit 1
        ) as main on true
        where (only_ledger_id is null or a.ledger_id = only_ledger_id)
            and (after_id is null or a.account_id > after_id)
            and a.account_id <= last_id
    )

    select
        v.violation, c.ledger_id, c.account_id,
        case v.violation when 'account_differs_from_last_entry' then c.entry_transaction_id end,
        c.version,
        case v.violation
            when 'account_differs_from_last_entry' then jsonb_build_object(
                'balance_minor', c.balance_minor, 'entry_balance_minor', c.entry_balance_minor,
                'entry_version', c.entry_version
            )
            when 'limit_passed' then jsonb_build_object(
                'balance_minor', c.balance_minor, 'held_minor', c.held_minor,
                'overdraft_limit_minor', c.overdraft_limit_minor
            )
            when 'held_differs' then jsonb_build_object(
                'held_minor', c.held_minor, 'open_minor', coalesce(c.open_minor, 0)
            )
            when 'limit_overlooked' then jsonb_build_object('limited', c.limited)
            when 'stripe_differs' then jsonb_build_object(
                'stripes', c.main_stripes, 'account_status', c.main_status, 'currency', c.main_currency
            )
            else jsonb_build_object('stripes', c.stripes)
        end
    from checked as c
    cross join lateral (
        values
        ('account_differs_from_last_entry', c.differs_from_last_entry),
        ('limit_passed', c.limit_passed),
        ('held_differs', c.held_differs),
        ('limit_overlooked', c.limit_overlooked),
        ('stripe_differs', c.stripe_differs),
        ('stripe_missing', c.stripe_missing)
    ) as v (violation, found)
    where v.found
        and (c.differs_from_last_entry or c.limit_passed or c.held_differs or c.limit_overlooked
            or c.stripe_differs or c.stripe_missing);
end
$$;
