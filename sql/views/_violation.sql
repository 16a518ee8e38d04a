-- What the checks of bank.verify find: a row type, of which there are never any rows here. account_id may be that of a
-- stripe's own row.
create or replace view bank._violation as
select
    null::text as violation,
    null::bigint as ledger_id,
    null::bigint as account_id,
    null::bigint as transaction_id,
    null::bigint as version,
    null::jsonb as detail
where false;
