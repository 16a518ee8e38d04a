-- The last step of every install: takes over the error catalogue, and notes what is installed.
-- breaking_migration_id: of the version's migrations the last one that services of versions without it cannot follow.
create or replace function bank._install(
    migration_id text, sql_digest text, errors jsonb, release text, breaking_migration_id text
) returns void
language plpgsql set search_path = bank, pg_temp as $$
begin
    delete from bank.error as e where not errors ? e.code;
    insert into bank.error (code, precedence, sqlstate, http_status, kind, title, meaning, retry)
    select entry.key, facts.precedence, facts.sqlstate, facts.http_status, facts.kind, facts.title, facts.meaning, facts.retry
    from jsonb_each(errors) as entry
    cross join jsonb_to_record(entry.value) as facts (
        precedence smallint, sqlstate text, http_status smallint, kind text, title text, meaning text, retry text
    )
    on conflict (code) do update
    set precedence = excluded.precedence,
        sqlstate = excluded.sqlstate,
        http_status = excluded.http_status,
        kind = excluded.kind,
        title = excluded.title,
        meaning = excluded.meaning,
        retry = excluded.retry;

    perform bank._fill_in_reversals();

    -- From the first install on that records requests, these functions have been the only ones that post.
    insert into bank.installation (
        only_row, migration_id, sql_digest, installed_at, requests_recorded_from, breaking_migration_id
    )
    select
        true,
        _install.migration_id,
        _install.sql_digest,
        now(),
        s.last_value + s.is_called::integer,
        _install.breaking_migration_id
    from bank.transaction_id_seq as s
    on conflict (only_row) do update
    set migration_id = excluded.migration_id,
        sql_digest = excluded.sql_digest,
        installed_at = excluded.installed_at,
        requests_recorded_from = coalesce(installation.requests_recorded_from, excluded.requests_recorded_from),
        breaking_migration_id = excluded.breaking_migration_id;

    -- Who goes back to an earlier version takes away what the ones after it need.
    delete from bank.installed_version as v
    where v.migration_id collate "C" < _install.breaking_migration_id
        or v.installation_number >= (
            select min(earlier.installation_number) from bank.installed_version as earlier
            where earlier.sql_digest = _install.sql_digest
        );
    insert into bank.installed_version (sql_digest, migration_id, release)
    values (_install.sql_digest, _install.migration_id, _install.release);
end
$$;
