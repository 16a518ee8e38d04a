-- Opens many accounts in one call, exactly as if bank.open_account had been called for one item after another in this
-- order; what that says of each argument holds here. One that cannot be opened stops no other.
-- overdraft_limits_minor: a null array stands for 0 everywhere; a null element means no limit. account_types: a null
-- array stands for liability everywhere. external_ids, metadatas, idempotency_keys: a null array stands for none.
-- At most 10,000 items.
-- Of items with the same key the first opens the account and the others replay, or are idempotency_key_reused; of
-- items with the same external id the first opens it and the others are external_id_taken.
-- Returns one row per item, in order: the account as it is now, and whether it is replayed. Where the singular function
-- would raise, the row has no account_id, and failure_code and failure_detail are the error; all else is null except
-- ledger_id and the requested external_id.
-- Locks: none that a posting waits for. Racing calls with the same keys or external ids, or the first ones of a
-- currency, wait for each other, never in a circle: currencies, then keys, then external ids are taken in ascending
-- order.
-- Errors raised: invalid_argument for arrays of different lengths or too many items, ledger_not_found, sequence_behind.
-- Errors of an item, in this order: invalid_argument, unknown_currency, idempotency_key_reused, external_id_taken.
-- Example: select * from bank.open_accounts(array['Ada', 'Eve'], array['EUR', 'JPY'], external_ids => array['a', 'e']);
create or replace function bank.open_accounts(
    holder_names text[],
    currencies text[],
    overdraft_limits_minor numeric[] default null,
    external_ids text[] default null,
    metadatas jsonb[] default null,
    account_types text[] default null,
    idempotency_keys text[] default null,
    ledger_id bigint default 1
) returns setof bank.opened_account
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    fault constant jsonb := bank._openings_fault(
        holder_names, currencies, overdraft_limits_minor, external_ids, metadatas, account_types, idempotency_keys
    );
begin
    if fault is not null then
        perform bank._raise('invalid_argument', fault);
    end if;
    return query select * from bank._open_accounts(
        holder_names, currencies, overdraft_limits_minor, external_ids, metadatas, account_types, idempotency_keys, ledger_id
    );
end
$$;

comment on function bank.open_accounts is 'Opens many accounts in one call, each with its own outcome';
