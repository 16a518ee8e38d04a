-- What a posting reads of an account, or of a stripe, when it locks it: narrower than the table, which saves the engine
-- a twentieth of its time.
create or replace view bank._postable as
select
    a.ledger_id,
    a.account_id,
    a.account_status,
    a.currency,
    a.balance_minor,
    a.held_minor,
    a.overdraft_limit_minor,
    a.version,
    a.last_entry_at,
    a.stripes,
    a.limited
from bank.account as a;
