-- The rows of a prepared batch of transfers, written with no logic at all: see ceiling.sql. What each account gains was
-- added up when the batch was prepared.
\set number random(1, :batches)
with item as materialized (
    select
        nextval('bank.transaction_id_seq') as transaction_id, now() as created_at,
        u.debit_account_id, u.credit_account_id, u.amount_minor,
        concat((select gen_random_uuid()), ':', u.i) as idempotency_key
    from load.batch as b
    cross join lateral unnest(b.debit_account_ids, b.credit_account_ids, b.amounts_minor)
        with ordinality as u (debit_account_id, credit_account_id, amount_minor, i)
    where b.items = :items and b.number = :number
),
new_transaction as (
    insert into bank.transaction (
        ledger_id, transaction_id, debit_account_id, credit_account_id, amount_minor, debit_version, credit_version,
        created_at, transaction_type, transaction_status, currency, idempotency_key
    )
    select
        1, transaction_id, debit_account_id, credit_account_id, amount_minor, transaction_id, transaction_id, created_at,
        'transfer', 'success', 'EUR', idempotency_key
    from item
),
new_entry as (
    insert into bank.entry (
        ledger_id, account_id, version, transaction_id, amount_minor, balance_after_minor, created_at
    )
    select 1, debit_account_id, transaction_id, transaction_id, -amount_minor, -amount_minor, created_at from item
    union all
    select 1, credit_account_id, transaction_id, transaction_id, amount_minor, amount_minor, created_at from item
)
update bank.account as a
set balance_minor = a.balance_minor + u.gain_minor, version = a.version + u.entries, last_entry_at = now()
from load.batch as b
cross join lateral unnest(b.account_ids, b.gains_minor, b.entries) as u (account_id, gain_minor, entries)
where b.items = :items and b.number = :number and a.ledger_id = 1 and a.account_id = u.account_id;
