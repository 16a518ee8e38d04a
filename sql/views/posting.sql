-- A transaction with what it left behind on both accounts. Every posting function returns a row of this view's type,
-- so that calls compose and a lookup answers in the shape of the call that posted.
-- Balances and versions after are null for a failure: nothing was changed. They are null for a striped account too:
-- what the whole account had then is not known to the posting that changed one stripe.
create or replace view bank.posting as
select
    t.transaction_id,
    t.transaction_type,
    t.transaction_status,
    t.failure_code,
    t.failure_detail,
    t.amount_minor,
    t.currency,
    bank._account_of(t.debit_account_id) as debit_account_id,
    bank._account_of(t.credit_account_id) as credit_account_id,
    case when t.debit_account_id = bank._account_of(t.debit_account_id) then d.balance_after_minor end
        as debit_balance_after_minor,
    case when t.credit_account_id = bank._account_of(t.credit_account_id) then c.balance_after_minor end
        as credit_balance_after_minor,
    case when t.debit_account_id = bank._account_of(t.debit_account_id) then t.debit_version end as debit_version,
    case when t.credit_account_id = bank._account_of(t.credit_account_id) then t.credit_version end as credit_version,
    t.idempotency_key,
    t.description,
    t.external_id,
    coalesce(t.metadata, '{}') as metadata,
    t.created_at,
    false as replayed,
    t.ledger_id,
    t.original_transaction_id,
    t.counterpart_ledger_id,
    t.exchange_rate,
    t.exchange_residue_minor,
    t.legs
from bank.transaction as t
left join bank.entry as d
    on
        t.ledger_id = d.ledger_id
        and t.debit_account_id = d.account_id
        and t.debit_version = d.version
left join bank.entry as c
    on
        t.ledger_id = c.ledger_id
        and t.credit_account_id = c.account_id
        and t.credit_version = c.version;

comment on view bank.posting is
'A transaction, successful or failed, with balances and versions of both accounts after it';
