-- Moves money many times in one call: item i moves amounts_minor[i] from debit_account_ids[i] to
-- credit_account_ids[i], exactly as if bank.transfer had been called for one item after another in this order. An
-- account may be in any number of items, may be overdrawn by one and filled by a later one, and a key that returns in
-- the same batch replays.
-- amounts_minor: minor units, whole numbers from 1 to 9007199254740991. At most 10,000 items.
-- atomic: false posts each item that can be posted; true posts all or none, and the first item that cannot be posted
-- stops the batch: it is recorded as always, the others have failure_code batch_aborted and are not recorded.
-- Returns one row an item, in order. Where bank.transfer would raise, the row has no transaction_id, and failure_code
-- and failure_detail are the error.
-- Locks: all accounts of the batch, in ascending account_id, until the caller's transaction ends.
-- Errors raised: invalid_argument for arrays of different lengths or too many items. Errors of an item, in this order:
-- invalid_amount, invalid_argument, account_not_found, idempotency_key_reused, batch_aborted.
-- Rejections recorded, in this order: same_account, account_closed, account_frozen, currency_mismatch,
-- insufficient_funds, balance_overflow.
-- Example: select * from bank.post_transfers(array[2, 2], array[3, 3], array[500, 250], array['pay-1', 'pay-2']);
create or replace function bank.post_transfers(
    debit_account_ids bigint[],
    credit_account_ids bigint[],
    amounts_minor bigint[],
    idempotency_keys text[] default null,
    descriptions text[] default null,
    atomic boolean default false,
    ledger_id bigint default 1
) returns setof bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    item_count constant integer := coalesce(cardinality(amounts_minor), 0);
    fault jsonb;
begin
    select jsonb_build_object('field', checked.field, 'reason', checked.reason)
    into fault
    from (
        values
        ('amounts_minor', case when item_count not between 1 and 10000 then 'has not from 1 to 10000 items' end),
        ('debit_account_ids', bank._array_fault(debit_account_ids, item_count)),
        ('credit_account_ids', bank._array_fault(credit_account_ids, item_count)),
        ('amounts_minor', bank._array_fault(amounts_minor, item_count)),
        ('idempotency_keys', case when idempotency_keys is not null then bank._array_fault(idempotency_keys, item_count) end),
        ('descriptions', case when descriptions is not null then bank._array_fault(descriptions, item_count) end)
    ) as checked (field, reason)
    where checked.reason is not null
    limit 1;
    if found then
        perform bank._raise('invalid_argument', fault);
    end if;
    return query select * from bank._post(
        array_fill('transfer'::bank.transaction_type, array[item_count]),
        debit_account_ids, credit_account_ids, amounts_minor, idempotency_keys, descriptions,
        null, null, coalesce(atomic, false), ledger_id
    );
end
$$;

comment on function bank.post_transfers is 'Many transfers in one call, independent of each other or all or none';
