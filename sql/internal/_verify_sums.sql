-- The entries of a transaction sum to zero in each currency: for the transactions after after_id, null: from the first,
-- up to last_id that have legs, or are among the suspects. Two entries that are what their transaction says sum to zero
-- by themselves, so those of any other transaction need not be read once more.
create or replace function bank._verify_sums(
    only_ledger_id bigint,
    after_id bigint,
    last_id bigint,
    suspects bigint[]
) returns setof bank._violation
language plpgsql stable set plan_cache_mode = force_custom_plan as $$
begin
    return query
    select
        'currency_does_not_sum_to_zero', t.ledger_id, null::bigint, t.transaction_id, null::bigint,
        jsonb_build_object('currency', a.currency, 'sum_minor', sum(e.amount_minor))
    from bank.transaction as t
    cross join lateral (
        select side.account_id, side.version
        from (
            values (t.debit_account_id, t.debit_version), (t.credit_account_id, t.credit_version)
        ) as side (account_id, version)
        where t.legs is null

        union all
        select case when x.stripe is null then x.account_id else bank._stripe_id(x.account_id, x.stripe) end, x.version
        from jsonb_to_recordset(t.legs) as x (account_id bigint, version bigint, stripe integer)
    ) as l
    cross join lateral (
        select x.amount_minor from bank.entry as x
        where x.ledger_id = t.ledger_id
            and x.account_id = l.account_id
            and x.version = l.version
            and x.transaction_id = t.transaction_id
        limit 1
    ) as e
    cross join lateral (
        select x.currency from bank.account as x
        where x.ledger_id = t.ledger_id and x.account_id = l.account_id
        limit 1
    ) as a
    where t.ledger_id = only_ledger_id
        and (after_id is null or t.transaction_id > after_id)
        and t.transaction_id <= last_id
        and (t.legs is not null or t.transaction_id = any(suspects))
    group by t.ledger_id, t.transaction_id, a.currency
    having sum(e.amount_minor) <> 0;
end
$$;
