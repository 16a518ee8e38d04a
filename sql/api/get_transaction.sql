-- A transaction, successful or failed, by its id.
-- Locks: none. Errors: transaction_not_found.
-- Example: select * from bank.get_transaction(1);
create or replace function bank.get_transaction(transaction_id bigint, ledger_id bigint default 1) returns bank.posting
language plpgsql stable security definer set search_path = bank, pg_temp as $$
declare
    result bank.posting;
begin
    select * into result
    from bank.posting as p
    where p.ledger_id = get_transaction.ledger_id and p.transaction_id = get_transaction.transaction_id;
    if not found then
        perform bank._raise('transaction_not_found', jsonb_build_object(
            'field', 'transaction_id', 'reason', 'does not exist', 'transaction_id', transaction_id
        ));
    end if;
    return result;
end
$$;

comment on function bank.get_transaction is 'A transaction, successful or failed, by its id';
