-- An account as its holder may see it.
create or replace view bank.account_detail as
select
    a.account_id,
    a.holder_name,
    a.currency,
    a.account_type,
    a.account_status,
    a.balance_minor,
    a.held_minor,
    a.balance_minor - a.held_minor + a.overdraft_limit_minor as available_balance_minor,
    a.overdraft_limit_minor,
    a.version,
    a.external_id,
    a.metadata,
    a.created_at,
    a.ledger_id
from bank.account as a;

comment on view bank.account_detail is
'An account with its balances in minor units; overdraft_limit_minor and available_balance_minor are null '
'when unlimited';
