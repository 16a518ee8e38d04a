-- What a balance enquiry answers. The balance of a striped account is the sum of its own row and its stripes. A hold
-- stops counting when its deadline has passed, whether somebody has ended it yet or not.
create or replace view bank.account_balance as
select
    a.account_id,
    a.currency,
    a.balance_minor + coalesce(s.balance_minor, 0) as balance_minor,
    a.held_minor - coalesce(h.expired_minor, 0) as held_minor,
    a.balance_minor + coalesce(s.balance_minor, 0) - a.held_minor + coalesce(h.expired_minor, 0)
    + a.overdraft_limit_minor as available_balance_minor,
    a.version + coalesce(s.version, 0) as version,
    -- Everything that was committed by then is seen.
    statement_timestamp() as as_of,
    a.ledger_id
from bank.account as a
left join lateral (
    select
        sum(x.balance_minor)::bigint as balance_minor,
        sum(x.version)::bigint as version
    from bank.account as x
    where
        a.stripes > 0 -- else nothing is looked up
        and a.ledger_id = x.ledger_id
        and x.account_id between bank._stripe_id(a.account_id, 0) and bank._stripe_id(a.account_id, 63)
) as s on true
left join lateral (
    select sum(greatest(x.amount_minor - x.captured_minor, 0))::bigint as expired_minor
    from bank.hold as x
    where
        a.held_minor > 0 -- else nothing is looked up
        and a.ledger_id = x.ledger_id
        and a.account_id = x.account_id
        and x.hold_status = 'open'
        and x.expires_at <= statement_timestamp()
) as h on true
where a.stripes >= 0;

comment on view bank.account_balance is
'Balances of an account in minor units; available_balance_minor is null when the overdraft is unlimited';
