-- Turns a rejection into an exception, for callers who post inside a transaction of their own and want a rejection to
-- roll all of it back (the recorded failure with it). Returns a successful posting as it is.
-- Locks: none. Errors: posting_rejected.
-- Example: select * from bank.require_success(bank.transfer(2, 3, 500));
create or replace function bank.require_success(posting bank.posting) returns bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
begin
    if posting.transaction_status = 'failure' then
        perform bank._raise('posting_rejected', jsonb_build_object(
            'field', 'posting', 'reason', posting.failure_code, 'failure_code', posting.failure_code
        ) || coalesce(posting.failure_detail, '{}'));
    end if;
    return posting;
end
$$;

comment on function bank.require_success is 'Raises when a posting was rejected, else returns it';
