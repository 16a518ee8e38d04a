-- Writes into the originals what their reversals have taken back, where they do not say so: of reversals that functions
-- of an earlier version made, until the moment at which they were replaced.
create or replace function bank._fill_in_reversals() returns void
language plpgsql set search_path = bank, pg_temp as $$
begin
    update bank.transaction as t
    set reversed_minor = case when t.legs is null then reversed.total_minor else t.amount_minor end
    from (
        select r.ledger_id, r.original_transaction_id, sum(r.amount_minor) as total_minor
        from bank.transaction as r
        where r.original_transaction_id is not null -- has an index
            and r.transaction_type = 'reversal'
            and r.transaction_status = 'success'
        group by r.ledger_id, r.original_transaction_id
    ) as reversed
    where t.ledger_id = reversed.ledger_id
        and t.transaction_id = reversed.original_transaction_id
        and t.reversed_minor is distinct from case when t.legs is null then reversed.total_minor else t.amount_minor end;
end
$$;
