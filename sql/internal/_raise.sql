-- Raises a malformed call's error: SQLSTATE and message from the catalogue, the facts as JSON in DETAIL.
create or replace function bank._raise(code text, facts jsonb) returns void
language plpgsql as $$
declare
    error bank.error;
begin
    select * into strict error from bank.error as e where e.code = _raise.code;
    raise exception using errcode = error.sqlstate, message = code, detail = facts::text, hint = error.meaning;
end
$$;
