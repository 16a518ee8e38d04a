-- What a balance enquiry answers.
create or replace view bank.account_balance as
select
    a.account_id,
    a.currency,
    a.balance_minor,
    a.held_minor,
    a.balance_minor - a.held_minor + a.overdraft_limit_minor as available_balance_minor,
    a.version,
    clock_timestamp() as as_of,
    a.ledger_id
from bank.account as a;

comment on view bank.account_balance is
'Balances of an account in minor units; available_balance_minor is null when the overdraft is unlimited';
