-- The accounts that have a time from the future about them, in the order in which bank.correct_times takes them, with
-- what it needs to know so that it need not search under its locks. Reads everything but the transactions. row_ids:
-- rows of bank.account, the account's own and stripes, whose entries must be looked at; first_versions: from which
-- version of each on. hold_ids: its holds that ended in the future.
create or replace function bank.wrong_times() returns table (
    ledger_id bigint,
    account_id bigint,
    row_ids bigint[],
    first_versions bigint[],
    hold_ids bigint[],
    entry_count bigint
)
language sql stable set search_path = bank, pg_temp as $$
    with latest as materialized (
        select statement_timestamp() + bank._clock_tolerance() as at
    ), wrong (ledger_id, row_id, first_version, hold_id, entry_count) as (
        select e.ledger_id, e.account_id, min(e.version), null::bigint, count(*)
        from bank.entry as e
        where e.created_at > (select at from latest)
        group by e.ledger_id, e.account_id

        union all
        -- The next entry will be from the future too.
        select a.ledger_id, a.account_id, a.version + 1, null, 0
        from bank.account as a
        where a.last_entry_at > (select at from latest)

        union all
        select a.ledger_id, a.account_id, null, null, 0
        from bank.account as a
        where a.created_at > (select at from latest)

        union all
        select c.ledger_id, c.account_id, null, null, 0
        from bank.account_change as c
        where c.changed_at > (select at from latest)

        union all
        select l.ledger_id, l.account_id, null, null, 0
        from bank.account_limit as l
        where l.window_started_at > (select at from latest)

        union all
        select h.ledger_id, h.account_id, null, h.hold_id, 0
        from bank.hold as h
        where h.ended_at > (select at from latest)
    )

    select
        r.ledger_id,
        bank._account_of(r.row_id),
        coalesce(array_agg(r.row_id order by r.row_id) filter (where r.first_version is not null), '{}'),
        coalesce(array_agg(r.first_version order by r.row_id) filter (where r.first_version is not null), '{}'),
        coalesce(max(r.hold_ids), '{}'),
        sum(r.entry_count)::bigint
    from (
        select
            w.ledger_id, w.row_id, min(w.first_version) as first_version, sum(w.entry_count) as entry_count,
            array_agg(w.hold_id) filter (where w.hold_id is not null) as hold_ids
        from wrong as w
        group by w.ledger_id, w.row_id
    ) as r
    group by r.ledger_id, bank._account_of(r.row_id)
    order by r.ledger_id, bank._account_of(r.row_id)
$$;

comment on function bank.wrong_times is 'The accounts that have times from the future';
