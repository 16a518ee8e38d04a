-- The rows of one transfer, written with no logic at all: nothing is locked beforehand, checked, or read. The versions
-- of entries are made up from the transaction's id, because counting them would be logic.
\set debit random(:first, :last)
\set credit :first + (:debit - :first + random(1, :last - :first)) % (:last - :first + 1)
\set amount random(1, 10000)
with item as materialized (
    select nextval('bank.transaction_id_seq') as transaction_id, now() as created_at
),
new_transaction as (
    insert into bank.transaction (
        ledger_id, transaction_id, debit_account_id, credit_account_id, amount_minor, debit_version, credit_version,
        created_at, transaction_type, transaction_status, currency
    )
    select
        1, transaction_id, :debit, :credit, :amount, transaction_id, transaction_id, created_at,
        'transfer', 'success', 'EUR'
    from item
),
new_entry as (
    insert into bank.entry (
        ledger_id, account_id, version, transaction_id, amount_minor, balance_after_minor, created_at
    )
    select 1, :debit::bigint, transaction_id, transaction_id, -:amount::bigint, -:amount::bigint, created_at from item
    union all
    select 1, :credit::bigint, transaction_id, transaction_id, :amount::bigint, :amount::bigint, created_at from item
)
update bank.account
set
    balance_minor = balance_minor + case when account_id = :debit then -:amount::bigint else :amount::bigint end,
    version = version + 1, last_entry_at = now()
where ledger_id = 1 and account_id in (:debit, :credit);
