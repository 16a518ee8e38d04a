-- A transaction, successful or failed, by the idempotency key that it was posted with: what a caller asks who does
-- not know whether a request arrived.
-- Locks: none; a posting that is not committed yet is not found. Errors: transaction_not_found.
-- Example: select * from bank.find_transaction('salary-2026-11');
create or replace function bank.find_transaction(idempotency_key text, ledger_id bigint default 1) returns bank.posting
language plpgsql stable security definer set search_path = bank, pg_temp as $$
declare
    result bank.posting;
begin
    select * into result
    from bank.posting as p
    where p.ledger_id = find_transaction.ledger_id and p.idempotency_key = find_transaction.idempotency_key collate "default";
    if not found then
        perform bank._raise('transaction_not_found', jsonb_build_object(
            'field', 'idempotency_key', 'reason', 'has no transaction'
        ));
    end if;
    return result;
end
$$;

comment on function bank.find_transaction is 'A transaction, successful or failed, by its idempotency key';
