-- A limit of an account, with what is used of it now.
create or replace view bank.limit_detail as
select
    l.account_id,
    l.limit_kind,
    l.amount_max_minor,
    l.count_max,
    w.window_started_at,
    case when l.window_started_at = w.window_started_at then l.used_minor else 0 end as used_minor,
    case when l.window_started_at = w.window_started_at then l.used_count else 0 end as used_count,
    l.ledger_id
from bank.account_limit as l
cross join lateral ( -- noqa: ST05
    select
        case
            when l.limit_kind in ('day', 'week', 'month')
                then date_trunc(l.limit_kind::text, statement_timestamp() at time zone 'UTC') at time zone 'UTC'
        end as window_started_at
) as w;

comment on view bank.limit_detail is
'A limit of an account in minor units; used_minor and used_count are of the window that we are in, which began at '
'window_started_at';
