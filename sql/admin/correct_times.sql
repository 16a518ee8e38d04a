-- Corrects the times of an account that lie in the future: of its entries, the last time of its rows, when it was
-- opened, its changes, the windows of its limits, when its holds ended. Nothing else is changed: no amount,
-- balance or version. `pgteller correct-times` calls it for each account that bank.wrong_times lists, after
-- bank.correct_transaction_times has done its part. A time is from the future when it is later than the clock by more
-- than bank._clock_tolerance(); what is not keeps its time.
--
-- The rules. New times are never from the future, and never run back along the account:
-- - An entry gets the time of its transaction, but never an earlier one than the entry before it in the account's row,
--   or a later one than the next entry that is not from the future. Where that is earlier than its transaction, which
--   takes a transaction that was given a time, the transaction gets it too.
-- - A change of the account gets the time of the transaction behind the account's last entry that was there by then,
--   but never an earlier one than the change before, or than the account; never a later one than the next change that
--   is not from the future.
-- - A hold ended when it was voided or captured; one that expired, at its deadline, or now where that has not come yet.
-- - An account was opened when the one before it was, by account_id, but not after its first entry.
-- - A limit's window is the one of the account's last debit or open hold.
-- A change 'times_corrected' says what last_entry_at was and is; a striped account has the latest one of its rows
-- there.
--
-- row_ids, first_versions, hold_ids: see bank.wrong_times. It looks at entries_max entries and then returns, so that
-- postings need not wait for long; call it again with the first_versions that it returned, until it has finished.
-- Entries that were posted meanwhile are corrected too. entries_before: how many earlier calls have corrected.
-- Locks: the account's row and its stripes, as bank._lock_rows does. Whoever posts waits for as long as this takes, so
-- it goes from row to row by the keys: a plan for whole sets took minutes where the planner knew no sizes.
create or replace function bank.correct_times(
    account_id bigint,
    row_ids bigint[],
    first_versions bigint[],
    hold_ids bigint[],
    ledger_id bigint,
    entries_max bigint default 5000,
    entries_before bigint default 0
) returns table (next_versions bigint[], entry_count bigint, transaction_count bigint, finished boolean)
language plpgsql set search_path = bank, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    family_ids bigint[]; -- the account's row and its stripes
    latest timestamptz;
    left_count bigint := entries_max;
    row_version bigint; -- of its last entry
    end_version bigint; -- of the entries that are looked at, exclusive
    before_at timestamptz; -- of the entry before the one in hand
    after_at timestamptz; -- of the next entry that is not from the future, after those that are looked at
    wrong record;
    touched boolean := entries_before > 0;
    opened_at timestamptz;
    debited_at timestamptz;
    last_before timestamptz;
    last_after timestamptz;
begin
    perform bank._lock_rows(account_id, ledger_id);
    select array_agg(a.account_id order by a.account_id) into family_ids
    from bank.account as a
    where a.ledger_id = correct_times.ledger_id
        and (
            a.account_id = correct_times.account_id
            or a.account_id between bank._stripe_id(correct_times.account_id, 0)
            and bank._stripe_id(correct_times.account_id, 63)
        );
    latest := clock_timestamp() + bank._clock_tolerance();
    next_versions := first_versions;
    entry_count := 0;
    transaction_count := 0;
    finished := true;

    -- Changes first: the times of the entries still tell which of them were there by then.
    update bank.account_change as c
    set changed_at = coalesce(
        least(greatest(chain.running_at, chain.opened_at), chain.next_right_at), clock_timestamp()
    )
    from (
        select
            x.change_number,
            x.changed_at,
            case when a.created_at <= latest then a.created_at end as opened_at,
            max(case when x.changed_at <= latest then x.changed_at else posted.at end)
                over (order by x.change_number) as running_at,
            min(x.changed_at) filter (where x.changed_at <= latest)
                over (order by x.change_number desc rows between unbounded preceding and 1 preceding) as next_right_at
        from bank.account_change as x
        inner join bank.account as a on x.ledger_id = a.ledger_id and x.account_id = a.account_id
        left join lateral (
            select t.created_at as at
            from (
                select e.transaction_id
                from bank.entry as e
                where x.changed_at > latest
                    and e.ledger_id = x.ledger_id and e.account_id = x.account_id and e.created_at <= x.changed_at
                order by e.version desc
                limit 1
            ) as last_entry
            inner join bank.transaction as t
                on t.ledger_id = x.ledger_id and last_entry.transaction_id = t.transaction_id
            where t.created_at <= latest
        ) as posted on true
        where x.ledger_id = correct_times.ledger_id and x.account_id = correct_times.account_id
    ) as chain
    where c.ledger_id = correct_times.ledger_id
        and c.account_id = correct_times.account_id
        and c.change_number = chain.change_number
        and chain.changed_at > latest;
    touched := touched or found;

    for i in 1 .. cardinality(row_ids) loop
        select coalesce(max(e.version), 0) into row_version
        from bank.entry as e
        where e.ledger_id = correct_times.ledger_id and e.account_id = row_ids[i];
        continue when next_versions[i] > row_version;
        if left_count <= 0 then
            finished := false;
            exit;
        end if;

        end_version := least(next_versions[i] + left_count, row_version + 1);
        left_count := left_count - (end_version - next_versions[i]);
        select e.created_at into before_at
        from bank.entry as e
        where e.ledger_id = correct_times.ledger_id and e.account_id = row_ids[i] and e.version = next_versions[i] - 1;
        -- Where the last entry is from the future, all are between it and the first one, for time does not run back.
        select e.created_at into after_at
        from bank.entry as e
        where e.ledger_id = correct_times.ledger_id
            and e.account_id = row_ids[i]
            and e.version >= end_version
            and e.created_at <= latest
            and exists (
                select from bank.entry as x
                where x.ledger_id = correct_times.ledger_id and x.account_id = row_ids[i] and x.version = row_version
                    and x.created_at <= latest
            )
        order by e.version
        limit 1;

        for wrong in
            select chain.*
            from (
                select
                    e.version, e.created_at, e.transaction_id,
                    (
                        select t.created_at from bank.transaction as t
                        where t.ledger_id = e.ledger_id and t.transaction_id = e.transaction_id
                    ) as transaction_at,
                    max(e.created_at) filter (where e.created_at <= latest)
                        over (order by e.version) as last_right_at,
                    min(e.created_at) filter (where e.created_at <= latest)
                        over (order by e.version desc rows between unbounded preceding and 1 preceding) as next_right_at
                from bank.entry as e
                where e.ledger_id = correct_times.ledger_id and e.account_id = row_ids[i]
                    and e.version >= next_versions[i] and e.version < end_version
            ) as chain
            where chain.created_at > latest
            order by chain.version
        loop
            before_at := greatest(
                before_at, wrong.last_right_at, case when wrong.transaction_at <= latest then wrong.transaction_at end
            );
            before_at := coalesce(least(before_at, wrong.next_right_at, after_at), clock_timestamp());
            update bank.entry as e
            set created_at = before_at
            where e.ledger_id = correct_times.ledger_id and e.account_id = row_ids[i] and e.version = wrong.version;
            entry_count := entry_count + 1;
            if wrong.transaction_at > before_at then
                update bank.transaction as t
                set created_at = before_at
                where t.ledger_id = correct_times.ledger_id and t.transaction_id = wrong.transaction_id
                    and t.created_at > before_at;
                transaction_count := transaction_count + case when wrong.transaction_at > latest then 1 else 0 end;
            end if;
            touched := true;
        end loop;
        next_versions[i] := end_version;
        if end_version <= row_version then
            finished := false;
        end if;
    end loop;
    if not finished then
        return next;
        return;
    end if;

    select max(a.last_entry_at) into last_before
    from bank.account as a
    where a.ledger_id = correct_times.ledger_id and a.account_id = any(family_ids);
    select a.created_at into opened_at
    from bank.account as a
    where a.ledger_id = correct_times.ledger_id and a.account_id < correct_times.account_id and a.created_at <= latest
    order by a.account_id desc
    limit 1;
    select least(min(e.created_at), coalesce(opened_at, clock_timestamp())) into opened_at
    from bank.entry as e
    where e.ledger_id = correct_times.ledger_id and e.account_id = any(family_ids) and e.version = 1;
    update bank.account as a
    set last_entry_at = case when last.wrong then last.entry_at else a.last_entry_at end,
        created_at = case when a.created_at > latest then opened_at else a.created_at end
    from (
        select
            x.account_id, coalesce(e.created_at, '-infinity') as entry_at,
            x.last_entry_at > latest
            or x.account_id = any(row_ids) and x.last_entry_at is distinct from e.created_at as wrong
        from bank.account as x
        left join bank.entry as e
            on x.ledger_id = e.ledger_id and x.account_id = e.account_id and x.version = e.version
        where x.ledger_id = correct_times.ledger_id and x.account_id = any(family_ids)
    ) as last
    where a.ledger_id = correct_times.ledger_id
        and a.account_id = last.account_id
        and (last.wrong or a.created_at > latest);
    touched := touched or found;
    select max(a.last_entry_at) into last_after
    from bank.account as a
    where a.ledger_id = correct_times.ledger_id and a.account_id = any(family_ids);

    update bank.hold as h
    set ended_at = least(
            coalesce(
                case
                    when h.hold_status = 'expired' then h.expires_at
                    else (
                        select max(t.created_at) from bank.transaction as t
                        where t.ledger_id = h.ledger_id and t.original_transaction_id = h.hold_id
                            and t.transaction_type in ('capture', 'void') and t.transaction_status = 'success'
                    )
                end,
                clock_timestamp()
            ),
            clock_timestamp()
        )
    where h.ledger_id = correct_times.ledger_id and h.hold_id = any(correct_times.hold_ids) and h.ended_at > latest;
    touched := touched or found;

    if exists (
        select from bank.account_limit as l
        where l.ledger_id = correct_times.ledger_id and l.account_id = correct_times.account_id
            and l.window_started_at > latest
    ) then
        select greatest(
            (
                select e.created_at from bank.entry as e
                where e.ledger_id = correct_times.ledger_id and e.account_id = correct_times.account_id
                    and e.amount_minor < 0
                order by e.version desc
                limit 1
            ),
            (
                select max(t.created_at)
                from bank.hold as h
                inner join bank.transaction as t on h.ledger_id = t.ledger_id and h.hold_id = t.transaction_id
                where h.ledger_id = correct_times.ledger_id and h.account_id = correct_times.account_id
                    and h.hold_status = 'open'
            )
        )
        into debited_at;
        update bank.account_limit as l
        set window_started_at = coalesce(bank._window_start(l.limit_kind, debited_at), '-infinity')
        where l.ledger_id = correct_times.ledger_id and l.account_id = correct_times.account_id
            and l.window_started_at > latest;
        touched := true;
    end if;

    if touched and family_ids is not null then
        perform bank._note_change(
            account_id, 'times_corrected',
            jsonb_build_object('last_entry_at', last_before), jsonb_build_object('last_entry_at', last_after),
            null, 'pgteller correct-times', ledger_id
        );
    end if;
    return next;
end
$$;

comment on function bank.correct_times is 'Corrects the times of an account that lie in the future';
