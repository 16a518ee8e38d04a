-- A hold: what was authorised, what was captured, and what is held now. hold_id: the transaction_id of the
-- authorisation.
-- Locks: none. Errors: hold_not_found.
-- Example: select * from bank.hold(2);
create or replace function bank.hold(hold_id bigint, ledger_id bigint default 1) returns bank.hold_detail
language plpgsql stable security definer set search_path = bank, pg_temp as $$
declare
    result bank.hold_detail;
begin
    select * into result
    from bank.hold_detail as h
    where h.ledger_id = hold.ledger_id and h.hold_id = hold.hold_id;
    if not found then
        perform bank._raise('hold_not_found', jsonb_build_object(
            'field', 'hold_id', 'reason', 'does not exist', 'hold_id', hold_id
        ));
    end if;
    return result;
end
$$;

comment on function bank.hold is 'A hold: what was authorised, what was captured, and what is held now';
