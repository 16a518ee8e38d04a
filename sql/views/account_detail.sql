-- An account as its holder may see it.
create or replace view bank.account_detail as
select
    a.account_id,
    a.holder_name,
    a.currency,
    a.account_type,
    a.account_status,
    b.balance_minor,
    b.held_minor,
    b.available_balance_minor,
    a.overdraft_limit_minor,
    b.version,
    a.external_id,
    a.metadata,
    a.created_at,
    a.ledger_id,
    a.stripes
from bank.account as a
inner join bank.account_balance as b
    on
        a.ledger_id = b.ledger_id
        and a.account_id = b.account_id;

comment on view bank.account_detail is
'An account with its balances in minor units; overdraft_limit_minor and available_balance_minor are null '
'when unlimited; stripes is 0 for an account that is not striped';
