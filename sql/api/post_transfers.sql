-- Moves money many times in one call: item i moves amounts_minor[i] from debit_account_ids[i] to
-- credit_account_ids[i], exactly as if bank.transfer had been called for one item after another in this order.
-- It is bank.post with transfers alone; what that says of order, keys, atomic, groups, outcomes, locks and errors
-- holds here.
-- Locks: all accounts of the batch, in ascending account_id, until the caller's transaction ends.
-- Errors raised: invalid_argument for arrays of different lengths or too many items, sequence_behind. Errors of an item
-- and rejections: those of bank.post.
-- Example: select * from bank.post_transfers(array[2, 2], array[3, 3], array[500, 250], array['pay-1', 'pay-2']);
create or replace function bank.post_transfers(
    debit_account_ids bigint[],
    credit_account_ids bigint[],
    amounts_minor bigint[],
    idempotency_keys text[] default null,
    descriptions text[] default null,
    atomic boolean default false,
    ledger_id bigint default 1,
    groups integer[] default null
) returns setof bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
begin
    return query select * from bank.post(
        array_fill('transfer'::text, array[coalesce(cardinality(amounts_minor), 0)]),
        debit_account_ids, credit_account_ids, amounts_minor,
        idempotency_keys, descriptions, null, null, atomic, ledger_id, groups
    );
end
$$;

comment on function bank.post_transfers is 'Many transfers in one call, independent of each other or all or none';
