-- A hold as it stands now: one whose deadline has passed is expired, whether somebody has ended it yet or not.
create or replace view bank.hold_detail as
select
    h.hold_id,
    h.account_id,
    bank._account_of(t.credit_account_id) as beneficiary_account_id,
    t.currency,
    case
        when h.hold_status = 'open' and h.expires_at <= statement_timestamp() then 'expired'
        else h.hold_status
    end as hold_status,
    h.amount_minor,
    h.captured_minor,
    case
        when h.hold_status = 'open' and (h.expires_at <= statement_timestamp()) is not true
            then greatest(h.amount_minor - h.captured_minor, 0)
        else 0
    end as held_minor,
    h.tolerance_minor,
    h.expires_at,
    coalesce(h.ended_at, case when h.expires_at <= statement_timestamp() then h.expires_at end) as ended_at,
    t.description,
    t.external_id,
    coalesce(t.metadata, '{}') as metadata,
    t.created_at,
    h.ledger_id
from bank.hold as h
inner join bank.transaction as t
    on
        h.ledger_id = t.ledger_id
        and h.hold_id = t.transaction_id;

comment on view bank.hold_detail is 'A hold: what was authorised, captured and is still held, in minor units';
