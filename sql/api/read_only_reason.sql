-- Why nothing can be written here now, for a readiness probe; null when it can.
-- Returns 'standby' when the server replays another's log, 'default_transaction_read_only' when the server, the
-- database, the role or the session is set so, 'transaction_read_only' when the caller's transaction alone is.
-- Locks: none. Errors: none.
-- Example: select bank.read_only_reason();
create or replace function bank.read_only_reason() returns text
language sql stable security definer set search_path = bank, pg_temp as $$
    select case
        when pg_is_in_recovery() then 'standby'
        when not current_setting('transaction_read_only')::boolean then null
        when current_setting('default_transaction_read_only')::boolean then 'default_transaction_read_only'
        else 'transaction_read_only'
    end
$$;

comment on function bank.read_only_reason is 'Why nothing can be written here now';
