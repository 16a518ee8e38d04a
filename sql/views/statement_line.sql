-- An entry with the transaction behind it, seen from one account. amount_minor is signed: a credit is more than zero.
-- A transaction of several legs has no single counterparty.
-- The lines of a striped account have no version and no balance here, because they follow from the order of the lines
-- of all stripes: bank.statement works them out.
-- Only the lines themselves are in the union, without a condition, and the rest is around it. So the planner takes the
-- newest lines of an account from the index on its version, and gets nothing for stripes where there are none
-- (tests/sql/test_rows_read.py). The offset keeps the stripes' lines from being read all over and hashed.
create or replace view bank.statement_line as
select
    e.account_id,
    e.version,
    e.transaction_id,
    t.transaction_type,
    e.amount_minor,
    e.balance_after_minor,
    case
        when t.legs is null
            then bank._account_of(case when e.amount_minor < 0 then t.credit_account_id else t.debit_account_id end)
    end as counterparty_account_id,
    t.description,
    t.external_id,
    e.created_at,
    e.ledger_id
from (
    select
        x.ledger_id,
        x.account_id,
        x.version,
        x.transaction_id,
        x.amount_minor,
        x.balance_after_minor,
        x.created_at
    from bank.entry as x

    union all

    select
        a.ledger_id,
        a.account_id,
        null::bigint as version,
        x.transaction_id,
        x.amount_minor,
        null::bigint as balance_after_minor,
        x.created_at
    from bank.account as a
    cross join
        lateral (
            select e.*
            from bank.account as s
            inner join bank.entry as e
                on
                    s.ledger_id = e.ledger_id
                    and s.account_id = e.account_id
            where
                a.ledger_id = s.ledger_id
                and s.account_id between bank._stripe_id(a.account_id, 0) and bank._stripe_id(a.account_id, 63)
                and s.stripes < 0
            offset 0 -- noqa: AM09
        ) as x
    where a.stripes > 0
) as e
inner join bank.transaction as t
    on
        e.ledger_id = t.ledger_id
        and e.transaction_id = t.transaction_id
where e.account_id < bank._stripe_id(0, 0);

comment on view bank.statement_line is
'A line of an account''s statement, with the balance after it; for striped accounts use bank.statement()';
