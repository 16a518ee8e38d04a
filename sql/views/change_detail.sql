-- What was changed about an account: who, when, from, to.
create or replace view bank.change_detail as
select
    c.account_id,
    c.change_number,
    c.changed_at,
    c.changed_by,
    c.change_type,
    c.before,
    c.after,
    c.reason,
    c.ledger_id
from bank.account_change as c;

comment on view bank.change_detail is
'A change of an account''s state or limits, numbered without gaps for each account';
