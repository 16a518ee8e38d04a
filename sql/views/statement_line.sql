-- An entry with the transaction behind it, seen from one account. amount_minor is signed: a credit is more than zero.
-- A transaction of several legs has no single counterparty.
-- The lines of a striped account have no version and no balance here, because they follow from the order of the lines
-- of all stripes: bank.statement works them out.
create or replace view bank.statement_line as
select
    e.account_id,
    e.version,
    e.transaction_id,
    t.transaction_type,
    e.amount_minor,
    e.balance_after_minor,
    case
        when t.legs is null
            then bank._account_of(case when e.amount_minor < 0 then t.credit_account_id else t.debit_account_id end)
    end as counterparty_account_id,
    t.description,
    t.external_id,
    e.created_at,
    e.ledger_id
from bank.entry as e
inner join bank.transaction as t
    on
        e.ledger_id = t.ledger_id
        and e.transaction_id = t.transaction_id
where e.account_id < bank._stripe_id(0, 0)

union all

select
    a.account_id,
    null::bigint as version,
    e.transaction_id,
    t.transaction_type,
    e.amount_minor,
    null::bigint as balance_after_minor,
    case
        when t.legs is null
            then bank._account_of(case when e.amount_minor < 0 then t.credit_account_id else t.debit_account_id end)
    end as counterparty_account_id,
    t.description,
    t.external_id,
    e.created_at,
    e.ledger_id
from bank.account as a
inner join bank.entry as e
    on
        a.ledger_id = e.ledger_id
        and e.account_id between bank._stripe_id(a.account_id, 0) and bank._stripe_id(a.account_id, 63)
inner join bank.transaction as t
    on
        e.ledger_id = t.ledger_id
        and e.transaction_id = t.transaction_id
where a.stripes > 0;

comment on view bank.statement_line is
'A line of an account''s statement, with the balance after it; for striped accounts use bank.statement()';
