-- The seed's Transaction table: one row for each account that a transaction names, failed attempts included. The
-- ledger's own accounts (settlement, liquidity, clearing), which the seed does not know, are left out, and so are holds
-- and voids, which move nothing.
create or replace view bank.account_transaction as
select
    t.transaction_id,
    a.account_id,
    side.amount_minor as amount,
    side.transaction_type,
    initcap(t.transaction_status::text) as transaction_status,
    t.created_at as timestamp,
    t.ledger_id
from bank.transaction as t
cross join
    lateral (
        select
            bank._account_of(t.debit_account_id) as account_id,
            t.amount_minor,
            'Debit' as transaction_type
        where t.legs is null

        union all

        select
            bank._account_of(t.credit_account_id) as account_id,
            t.amount_minor,
            'Credit' as transaction_type
        where t.legs is null

        union all

        select
            (leg ->> 'account_id')::bigint as account_id,
            abs((leg ->> 'amount_minor')::bigint) as amount_minor,
            case when (leg ->> 'amount_minor')::bigint < 0 then 'Debit' else 'Credit' end as transaction_type
        from jsonb_array_elements(t.legs) as leg
    ) as side
inner join bank.account as a
    on
        t.ledger_id = a.ledger_id
        and side.account_id = a.account_id
where
    not (a.settlement or a.liquidity or a.clearing)
    and t.transaction_type not in ('hold', 'void')
    -- Follows from the above, and spares all other transactions their sides when one account is asked for. A case,
    -- because the planner would count the condition a second time if it understood it.
    and case
        when t.legs is null
            then a.account_id in (bank._account_of(t.debit_account_id), bank._account_of(t.credit_account_id))
        else true
    end;

comment on view bank.account_transaction is
'Transactions in the shape of the seed: transaction_type Credit or Debit, transaction_status Success or Failure, '
'amount in minor units';
