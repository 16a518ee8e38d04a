-- What bank.open_account and bank.open_accounts return a row of: the account as it is now, whether an earlier call
-- opened it, or why none was opened.
create or replace view bank.opened_account as
select
    a.account_id,
    a.holder_name,
    a.currency,
    a.account_type,
    a.account_status,
    a.balance_minor,
    a.held_minor,
    a.available_balance_minor,
    a.overdraft_limit_minor,
    a.version,
    a.external_id,
    a.metadata,
    a.created_at,
    a.ledger_id,
    a.stripes,
    false as replayed,
    null::text as failure_code,
    null::jsonb as failure_detail
from bank.account_detail as a;

comment on view bank.opened_account is
'An account as it is now and what came of opening it; where failure_code is not null there is no account_id';
