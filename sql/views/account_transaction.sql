-- The seed's Transaction table: one row for each account that a transaction names, failed attempts included. The
-- ledger's own settlement accounts, which the seed does not know, are left out.
create or replace view bank.account_transaction as
select
    t.transaction_id,
    a.account_id,
    t.amount_minor as amount,
    side.transaction_type,
    initcap(t.transaction_status::text) as transaction_status,
    t.created_at as timestamp,
    t.ledger_id
from bank.transaction as t
cross join
    lateral (values (t.debit_account_id, 'Debit'), (t.credit_account_id, 'Credit'))
        as side (account_id, transaction_type)
inner join bank.account as a
    on
        t.ledger_id = a.ledger_id
        and bank._account_of(side.account_id) = a.account_id
where not a.settlement;

comment on view bank.account_transaction is
'Transactions in the shape of the seed: transaction_type Credit or Debit, transaction_status Success or Failure, '
'amount in minor units';
