-- Sets every sequence that is behind past the highest id that is there, so that it draws new ones again. Does nothing,
-- and takes no lock, when none is. Called after every install, in a transaction of its own: one that has replaced views
-- makes everybody wait as long as it does.
-- Locks: each sequence that is behind, SHARE ROW EXCLUSIVE, until the transaction ends: it waits for who has drawn from
-- it and not committed yet, and who wants to draw waits for it. So that nobody waits long, it gives up after half a
-- second (less than it takes PostgreSQL to look for a deadlock), lets those pass who queued behind it, and tries again.
-- Errors: 55P03 after ten attempts: run it again when there are no long transactions.
create or replace function bank._mend_sequences() returns void
language plpgsql set search_path = bank, pg_temp as $$
declare
    lock_timeout_before constant text := current_setting('lock_timeout');
    attempts_max constant integer := 10;
    mended record;
    increment bigint;
begin
    for mended in select s.sequence_name from bank._sequences(null) as s where s.behind loop
        for attempt in 1 .. attempts_max loop
            begin
                perform set_config('lock_timeout', '500ms', true);
                -- A sequence cannot be locked by name; to alter it to what it is locks it, also one that belongs to a
                -- column.
                select s.seqincrement into strict increment
                from pg_catalog.pg_sequence as s
                where s.seqrelid = mended.sequence_name::regclass;
                execute format('alter sequence %s increment by %s', mended.sequence_name, increment);
                exit;
            exception
                when lock_not_available then
                    if attempt = attempts_max then
                        raise;
                    end if;
            end;
        end loop;
        perform set_config('lock_timeout', lock_timeout_before, true);
        -- Read again: somebody may have mended it while we waited.
        perform setval(s.sequence_name::regclass, s.highest_id)
        from bank._sequences(null) as s
        where s.sequence_name = mended.sequence_name and s.behind;
    end loop;
end
$$;
