-- Every invariant of the ledger, checked over all of its rows in one snapshot: a row for each violation, none when all
-- is well. ledger_id null checks every ledger. Reads everything; run it when the time that takes does not matter, and
-- bank.verify_slice while a large bank works.
-- A sequence_behind or constraint_missing row has no ledger_id when all ledgers are checked, since all draw from the
-- same sequences and are in the same tables.
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
    with found (violation, ledger_id, account_id, transaction_id, version, detail) as (
        -- The sum of all entries of a currency is zero.
        select
            'currency_does_not_sum_to_zero', e.ledger_id, null::bigint, null::bigint, null::bigint,
            jsonb_build_object('currency', a.currency, 'sum_minor', sum(e.amount_minor))
        from bank.entry as e
        inner join bank.account as a on e.ledger_id = a.ledger_id and e.account_id = a.account_id
        where $1 is null or e.ledger_id = $1
        group by e.ledger_id, a.currency
        having sum(e.amount_minor) <> 0

        union all
        select * from bank._verify_accounts($1, null, 9223372036854775807)

        union all
        select * from bank._verify_entries($1, null, null, 9223372036854775807, 9223372036854775807)

        union all
        select * from bank._verify_transactions($1, null, 9223372036854775807)

        union all
        select * from bank._verify_openings($1, null, null)

        union all
        select * from bank._verify_sequences($1)

        union all
        select * from bank._verify_constraints($1)
    )

    select
        v.violation, v.ledger_id, bank._account_of(v.account_id), v.transaction_id, v.version,
        bank._violation_detail(v.account_id, v.detail)
    from found as v
$$;

comment on function bank.verify is 'A row for each violated invariant of the ledger; none when all is well';
