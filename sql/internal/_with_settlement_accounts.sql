-- The sides of many postings, with the settlement account of the currency where a credit has no debit account and a
-- debit no credit account; null where the named account does not exist.
-- Reads only what never changes, so it takes no lock.
create or replace function bank._with_settlement_accounts(
    transaction_types bank.transaction_type[],
    debit_account_ids bigint[],
    credit_account_ids bigint[],
    ledger_id bigint
) returns table (n bigint, debit_id bigint, credit_id bigint)
language sql stable as $$
    select
        item.n,
        case item.type when 'credit' then s.account_id else item.debit_id end,
        case when item.type = 'debit' and item.credit_id is null then s.account_id else item.credit_id end
    from unnest(transaction_types, debit_account_ids, credit_account_ids)
    with ordinality as item (type, debit_id, credit_id, n)
    left join bank.account as a
        on a.ledger_id = _with_settlement_accounts.ledger_id
        and a.account_id = case item.type when 'credit' then item.credit_id when 'debit' then item.debit_id end
    left join bank.account as s
        on s.ledger_id = a.ledger_id and s.currency = a.currency and s.settlement
$$;
