-- Posts many credits, debits and transfers in one call, exactly as if bank.credit, bank.debit and bank.transfer had
-- been called for one item after another in this order. An account may be in any number of items, may be overdrawn by
-- one and filled by a later one, and a key that returns in the same batch replays.
-- transaction_types: credit, debit or transfer. The debit account of a credit is not looked at, and a debit whose
-- credit account is null leaves the bank: the settlement account is on that side. amounts_minor: minor units, whole
-- numbers from 1 to 9007199254740991; an array of fractions is no bigint[], and a cast of your own would round it.
-- At most 10,000 items.
-- atomic: false posts each item that can be posted; true posts all or none, and the first item that cannot be posted
-- stops the batch: it is recorded as always, the others have failure_code batch_aborted and are not recorded.
-- groups: neighbours with the same number, not null, are linked: all of them are posted or none; atomic is one group of
-- all items. batch_aborted is then the code of the others in the group.
-- Returns one row per item, in order. Where the singular function would raise, the row has no transaction_id, and
-- failure_code and failure_detail are the error.
-- Locks: all accounts of the batch, in ascending account_id, until the caller's transaction ends.
-- Errors raised: invalid_argument for arrays of different lengths, unknown types or too many items, sequence_behind.
-- Errors of an item, in this order: invalid_amount, invalid_argument, account_not_found, idempotency_key_reused,
-- batch_aborted.
-- Rejections recorded, in this order: same_account, account_closed, account_frozen, currency_mismatch,
-- insufficient_funds, balance_overflow, and the limits of the accounts.
-- Example: select * from bank.post(array['credit', 'debit'], array[null, 2], array[2, null], array[500, 250]);
create or replace function bank.post(
    transaction_types text[],
    debit_account_ids bigint[],
    credit_account_ids bigint[],
    amounts_minor bigint[],
    idempotency_keys text[] default null,
    descriptions text[] default null,
    external_ids text[] default null,
    metadatas jsonb[] default null,
    atomic boolean default false,
    ledger_id bigint default 1,
    groups integer[] default null
) returns setof bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    fault constant jsonb := bank._batch_fault(
        transaction_types, debit_account_ids, credit_account_ids, amounts_minor,
        idempotency_keys, descriptions, external_ids, metadatas, groups
    );
begin
    if fault is not null then
        perform bank._raise('invalid_argument', fault);
    end if;
    return query select * from bank._post(
        transaction_types::bank.transaction_type[], debit_account_ids, credit_account_ids, amounts_minor,
        idempotency_keys, descriptions, external_ids, metadatas,
        case when atomic then array_fill(1, array[cardinality(amounts_minor)]) else groups end, ledger_id
    );
end
$$;

comment on function bank.post is 'Many credits, debits and transfers in one call, independent or all or none';
