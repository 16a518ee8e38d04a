-- Gives transactions from the future, failed ones too, a time that can be true: the first part of what `pgteller
-- correct-times` does, before bank.correct_times takes the accounts. A time is from the future when it is later than
-- the clock by more than bank._clock_tolerance().
--
-- The rule: a transaction gets the earliest time of those of its own entries that are not from the future; when there
-- is none, the time of the transaction before it in the ledger, by transaction_id; when it is the first one, the time
-- of the next one that is not from the future; else the clock's. Ids are drawn in the order of time, but for
-- milliseconds, so that all of a leap gets the last time before it. No entry becomes earlier than its transaction.
--
-- Goes through at most rows_max of them in the order of their ids, from the one after the given, and returns how many
-- there were and which was the last; null for the last when there are no more. dry_run: only counts.
-- Locks: the transactions that it changes, which only reversals of them wait for.
create or replace function bank.correct_transaction_times(
    after_ledger_id bigint default 0,
    after_transaction_id bigint default 0,
    rows_max bigint default 1000,
    dry_run boolean default false
) returns table (last_ledger_id bigint, last_transaction_id bigint, transaction_count bigint)
-- Each call goes on along the key from where the last one stopped, whatever the planner thinks of few rows.
language plpgsql set search_path = bank, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    latest constant timestamptz := clock_timestamp() + bank._clock_tolerance();
    wrong record;
    corrected_at timestamptz;
begin
    transaction_count := 0;
    for wrong in
        select
            t.ledger_id, t.transaction_id, t.legs,
            t.debit_account_id, t.debit_version, t.credit_account_id, t.credit_version
        from bank.transaction as t
        where (t.ledger_id, t.transaction_id) > (after_ledger_id, after_transaction_id) and t.created_at > latest
        order by t.ledger_id, t.transaction_id
        limit rows_max
    loop
        transaction_count := transaction_count + 1;
        last_ledger_id := wrong.ledger_id;
        last_transaction_id := wrong.transaction_id;
        continue when dry_run;

        select min(e.created_at) into corrected_at
        from (
            select wrong.debit_account_id, wrong.debit_version where wrong.legs is null
            union all
            select wrong.credit_account_id, wrong.credit_version where wrong.legs is null
            union all
            select
                case when x.stripe is null then x.account_id else bank._stripe_id(x.account_id, x.stripe) end,
                x.version
            from jsonb_to_recordset(wrong.legs) as x (account_id bigint, version bigint, stripe integer)
        ) as leg (account_id, version)
        inner join bank.entry as e on leg.account_id = e.account_id and leg.version = e.version
        where e.ledger_id = wrong.ledger_id and e.created_at <= latest;
        if corrected_at is null then
            -- Those before are corrected already.
            select t.created_at into corrected_at
            from bank.transaction as t
            where t.ledger_id = wrong.ledger_id and t.transaction_id < wrong.transaction_id and t.created_at <= latest
            order by t.transaction_id desc
            limit 1;
        end if;
        if corrected_at is null then
            select t.created_at into corrected_at
            from bank.transaction as t
            where t.ledger_id = wrong.ledger_id and t.transaction_id > wrong.transaction_id and t.created_at <= latest
            order by t.transaction_id
            limit 1;
        end if;
        update bank.transaction as t
        set created_at = coalesce(corrected_at, clock_timestamp())
        where t.ledger_id = wrong.ledger_id and t.transaction_id = wrong.transaction_id and t.created_at > latest;
    end loop;
    if transaction_count < rows_max then
        last_ledger_id := null;
        last_transaction_id := null;
    end if;
    return next;
end
$$;

comment on function bank.correct_transaction_times is 'Gives transactions from the future a time that can be true';
