-- Every invariant of the ledger, checked over all of its rows in one snapshot: a row for each violation, none when all
-- is well. ledger_id null checks every ledger. Reads everything; run it when the time that takes does not matter.
-- A sequence_behind row has no ledger_id when all ledgers are checked, since all draw from the same sequence.
-- Locks: none. Errors: none.
-- Example: select * from bank.verify();
create or replace function bank.verify(ledger_id bigint default 1) returns table (
    violation text,
    ledger_id bigint,
    account_id bigint,
    transaction_id bigint,
    version bigint,
    detail jsonb
)
language sql stable security definer set search_path = bank, pg_temp as $$
    with account as (
        select * from bank.account as a where $1 is null or a.ledger_id = $1
    ), transaction as (
        select * from bank.transaction as t where $1 is null or t.ledger_id = $1
    ), entry as (
        select
            e.*,
            lag(e.version, 1, 0) over chain as version_before,
            lag(e.balance_after_minor, 1, 0) over chain as balance_before_minor,
            lag(e.created_at, 1, '-infinity') over chain as created_before,
            lead(e.version) over chain is null as last
        from bank.entry as e
        where $1 is null or e.ledger_id = $1
        window chain as (partition by e.ledger_id, e.account_id order by e.version)
    ), leg as (
        select t.*, side.account_id, side.version, side.amount_minor as leg_minor, t.currency as leg_currency
        from transaction as t
        cross join lateral (
            values
            (t.debit_account_id, t.debit_version, -t.amount_minor),
            (t.credit_account_id, t.credit_version, t.amount_minor)
        ) as side (account_id, version, amount_minor)
        where t.legs is null

        union all
        select
            t.*, case when x.stripe is null then x.account_id else bank._stripe_id(x.account_id, x.stripe) end,
            x.version, x.amount_minor, x.currency
        from transaction as t
        cross join lateral jsonb_to_recordset(t.legs) as x (
            account_id bigint, amount_minor bigint, currency text, version bigint, stripe integer
        )
    ), hold as (
        select * from bank.hold as h where $1 is null or h.ledger_id = $1
    ), reversed as (
        select x.ledger_id, x.original_transaction_id, sum(x.amount_minor) as reversed_minor, count(*) as reversals
        from transaction as x
        where x.transaction_type = 'reversal' and x.transaction_status = 'success'
        group by x.ledger_id, x.original_transaction_id
    ), found (violation, ledger_id, account_id, transaction_id, version, detail) as (
        -- The sum of all entries of a currency is zero.
        select
            'currency_does_not_sum_to_zero', e.ledger_id, null::bigint, null::bigint, null::bigint,
            jsonb_build_object('currency', a.currency, 'sum_minor', sum(e.amount_minor))
        from entry as e
        inner join account as a on e.ledger_id = a.ledger_id and e.account_id = a.account_id
        group by e.ledger_id, a.currency
        having sum(e.amount_minor) <> 0

        union all
        -- Versions have no gaps, each balance follows from the one before, and time does not run back.
        select
            case
                when e.version <> e.version_before + 1 then 'version_gap'
                when e.balance_after_minor <> e.balance_before_minor + e.amount_minor then 'balance_chain_broken'
                else 'time_runs_back'
            end,
            e.ledger_id, e.account_id, e.transaction_id, e.version,
            jsonb_build_object(
                'version_before', e.version_before, 'balance_before_minor', e.balance_before_minor,
                'amount_minor', e.amount_minor, 'balance_after_minor', e.balance_after_minor
            )
        from entry as e
        where e.version <> e.version_before + 1
            or e.balance_after_minor <> e.balance_before_minor + e.amount_minor
            or e.created_at < e.created_before

        union all
        -- An account's balance, version and last time are those of its last entry.
        select
            'account_differs_from_last_entry', a.ledger_id, a.account_id, e.transaction_id, a.version,
            jsonb_build_object(
                'balance_minor', a.balance_minor, 'entry_balance_minor', e.balance_after_minor, 'entry_version', e.version
            )
        from account as a
        left join entry as e on a.ledger_id = e.ledger_id and a.account_id = e.account_id and e.last
        where (a.balance_minor, a.version, a.last_entry_at)
            is distinct from (coalesce(e.balance_after_minor, 0), coalesce(e.version, 0), coalesce(e.created_at, '-infinity'))

        union all
        -- No balance passes its limit.
        select
            'limit_passed', a.ledger_id, a.account_id, null, a.version,
            jsonb_build_object(
                'balance_minor', a.balance_minor, 'held_minor', a.held_minor,
                'overdraft_limit_minor', a.overdraft_limit_minor
            )
        from account as a
        where a.balance_minor - a.held_minor < -a.overdraft_limit_minor

        union all
        -- A success has exactly the two entries that it names; a failure has none. An entry is later than its transaction
        -- where the account's last entry was ahead of the clock.
        select
            'transaction_without_entry', l.ledger_id, l.account_id, l.transaction_id, l.version,
            jsonb_build_object('amount_minor', l.leg_minor)
        from leg as l
        left join entry as e
            on l.ledger_id = e.ledger_id and l.account_id = e.account_id and l.version = e.version
            and l.transaction_id = e.transaction_id and l.leg_minor = e.amount_minor and l.created_at <= e.created_at
        where l.transaction_status = 'success' and l.transaction_type not in ('hold', 'void') and e.version is null

        union all
        select
            'entry_without_transaction', e.ledger_id, e.account_id, e.transaction_id, e.version,
            jsonb_build_object('amount_minor', e.amount_minor)
        from entry as e
        left join leg as l
            on e.ledger_id = l.ledger_id and e.account_id = l.account_id and e.version = l.version
            and e.transaction_id = l.transaction_id and l.transaction_status = 'success'
        where l.transaction_id is null

        union all
        -- What foreign keys and a check over two tables would hold: the accounts exist and share the currency.
        select
            case when a.account_id is null then 'account_missing' else 'currency_differs' end,
            l.ledger_id, l.account_id, l.transaction_id, l.version,
            jsonb_build_object('currency', l.leg_currency, 'account_currency', a.currency)
        from leg as l
        left join account as a on l.ledger_id = a.ledger_id and l.account_id = a.account_id
        where a.account_id is null
            or (l.transaction_status = 'success' and a.currency <> l.leg_currency)

        union all
        select
            'account_missing', e.ledger_id, e.account_id, e.transaction_id, e.version, '{}'
        from entry as e
        left join account as a on e.ledger_id = a.ledger_id and e.account_id = a.account_id
        where a.account_id is null

        union all
        -- What is held is what is left of the open holds, and each hold's captures are those that were posted.
        select
            'held_differs', a.ledger_id, a.account_id, null, a.version,
            jsonb_build_object('held_minor', a.held_minor, 'open_minor', coalesce(h.open_minor, 0))
        from account as a
        left join (
            select x.ledger_id, x.account_id, sum(greatest(x.amount_minor - x.captured_minor, 0)) as open_minor
            from hold as x
            where x.hold_status = 'open'
            group by x.ledger_id, x.account_id
        ) as h on a.ledger_id = h.ledger_id and a.account_id = h.account_id
        where a.held_minor <> coalesce(h.open_minor, 0)

        union all
        select
            'hold_differs', coalesce(h.ledger_id, t.ledger_id), h.account_id, coalesce(h.hold_id, t.transaction_id), null,
            jsonb_build_object(
                'captured_minor', h.captured_minor, 'posted_minor', coalesce(c.captured_minor, 0), 'amount_minor', t.amount_minor
            )
        from hold as h
        full join (
            select * from transaction as x where x.transaction_type = 'hold' and x.transaction_status = 'success'
        ) as t on h.ledger_id = t.ledger_id and h.hold_id = t.transaction_id
        left join (
            select x.ledger_id, x.original_transaction_id, sum(x.amount_minor) as captured_minor
            from transaction as x
            where x.transaction_type = 'capture' and x.transaction_status = 'success'
            group by x.ledger_id, x.original_transaction_id
        ) as c on h.ledger_id = c.ledger_id and h.hold_id = c.original_transaction_id
        where (h.account_id, h.amount_minor, h.captured_minor)
            is distinct from (t.debit_account_id, t.amount_minor, coalesce(c.captured_minor, 0))

        union all
        -- No more is reversed than there was, and the original says how much was.
        select
            'reversal_exceeds_original', r.ledger_id, null, r.original_transaction_id, null,
            jsonb_build_object('reversed_minor', r.reversed_minor, 'amount_minor', t.amount_minor)
        from reversed as r
        left join transaction as t
            on r.ledger_id = t.ledger_id and r.original_transaction_id = t.transaction_id and t.transaction_status = 'success'
        where t.transaction_id is null
            or t.legs is null and r.reversed_minor > t.amount_minor
            or t.legs is not null and r.reversals > 1

        union all
        select
            'reversed_differs', t.ledger_id, null, t.transaction_id, null,
            jsonb_build_object('reversed_minor', t.reversed_minor, 'posted_minor', r.reversed_minor)
        from transaction as t
        left join reversed as r on t.ledger_id = r.ledger_id and t.transaction_id = r.original_transaction_id
        where t.reversed_minor
            is distinct from case when t.legs is null or r.reversals is null then r.reversed_minor else t.amount_minor end

        union all
        -- An idempotency key of an opening leads to the account that it opened.
        select
            'opening_without_account', o.ledger_id, o.account_id, null, null,
            jsonb_build_object('idempotency_key', o.idempotency_key)
        from bank.opening as o
        left join account as a on o.ledger_id = a.ledger_id and o.account_id = a.account_id
        where ($1 is null or o.ledger_id = $1) and a.account_id is null

        union all
        -- Postings look at limits only where the account says that there are some.
        select 'limit_overlooked', a.ledger_id, a.account_id, null, a.version, jsonb_build_object('limited', a.limited)
        from account as a
        where a.limited <> exists (
                select from bank.account_limit as l where a.ledger_id = l.ledger_id and a.account_id = l.account_id
            )

        union all
        -- A stripe is of an account without limit, and agrees with it; postings read the stripe alone.
        select
            'stripe_differs', s.ledger_id, s.account_id, null, s.version,
            jsonb_build_object('stripes', a.stripes, 'account_status', a.account_status, 'currency', a.currency)
        from account as s
        left join account as a on s.ledger_id = a.ledger_id and bank._account_of(s.account_id) = a.account_id
        where s.stripes < 0
            and (
                (s.account_status, s.currency, s.stripes = -1)
                is distinct from (a.account_status, a.currency, s.account_id < bank._stripe_id(a.account_id, a.stripes))
                or coalesce(a.overdraft_limit_minor, s.overdraft_limit_minor) is not null
            )

        union all
        select
            'stripe_missing', a.ledger_id, a.account_id, null, a.version, jsonb_build_object('stripes', a.stripes)
        from account as a
        left join account as s
            on a.ledger_id = s.ledger_id and a.account_id = bank._account_of(s.account_id) and s.stripes = -1
        where a.stripes > 0
        group by a.ledger_id, a.account_id, a.version, a.stripes
        having count(s.account_id) <> a.stripes

        union all
        -- Nothing is later than the clock: after a clock that leapt, `pgteller correct-times` mends it (docs/clock.md).
        select
            'entry_from_the_future', e.ledger_id, e.account_id, e.transaction_id, e.version,
            jsonb_build_object('created_at', e.created_at)
        from entry as e
        where e.created_at > clock_timestamp() + bank._clock_tolerance()

        union all
        select
            'transaction_from_the_future', t.ledger_id, t.debit_account_id, t.transaction_id, t.debit_version,
            jsonb_build_object('created_at', t.created_at)
        from transaction as t
        where t.created_at > clock_timestamp() + bank._clock_tolerance()

        union all
        -- No sequence would draw an id that is there already: `pgteller migrate` mends it.
        select
            'sequence_behind', $1, null, null, null,
            jsonb_build_object('sequence', s.sequence_name, 'last_value', s.last_value, 'highest_id', s.highest_id)
        from bank._sequences($1) as s
        where s.behind
    )

    select
        v.violation, v.ledger_id, bank._account_of(v.account_id), v.transaction_id, v.version,
        case
            when v.account_id <> bank._account_of(v.account_id)
                then v.detail || jsonb_build_object('stripe', v.account_id - bank._stripe_id(bank._account_of(v.account_id), 0))
            else v.detail
        end
    from found as v
$$;

comment on function bank.verify is 'A row for each violated invariant of the ledger; none when all is well';
