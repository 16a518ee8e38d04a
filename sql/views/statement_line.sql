-- An entry with the transaction behind it, seen from one account. amount_minor is signed: a credit is more than zero.
create or replace view bank.statement_line as
select
    e.account_id,
    e.version,
    e.transaction_id,
    t.transaction_type,
    e.amount_minor,
    e.balance_after_minor,
    case when e.amount_minor < 0 then t.credit_account_id else t.debit_account_id end as counterparty_account_id,
    t.description,
    t.external_id,
    e.created_at,
    e.ledger_id
from bank.entry as e
inner join bank.transaction as t
    on
        e.ledger_id = t.ledger_id
        and e.transaction_id = t.transaction_id;

comment on view bank.statement_line is 'A line of an account''s statement, with the balance after it';
