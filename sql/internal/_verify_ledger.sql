-- The next ledger_id above after_ledger_id, null: the first, that rows of a part of bank.verify_slice have; null: there
-- is none. Read from the rows themselves, so that those of a ledger that does not exist are found too.
create or replace function bank._verify_ledger(part text, after_ledger_id bigint) returns bigint
language plpgsql stable as $$
begin
    if part = 'accounts' then
        return (
            select min(a.ledger_id) from bank.account as a
            where after_ledger_id is null or a.ledger_id > after_ledger_id
        );
    elsif part = 'entries' then
        return (
            select min(e.ledger_id) from bank.entry as e
            where after_ledger_id is null or e.ledger_id > after_ledger_id
        );
    elsif part = 'transactions' then
        return least(
            (
                select min(t.ledger_id) from bank.transaction as t
                where after_ledger_id is null or t.ledger_id > after_ledger_id
            ),
            (
                select min(h.ledger_id) from bank.hold as h
                where after_ledger_id is null or h.ledger_id > after_ledger_id
            )
        );
    elsif part = 'openings' then
        return (
            select min(o.ledger_id) from bank.opening as o
            where after_ledger_id is null or o.ledger_id > after_ledger_id
        );
    end if;
    return null;
end
$$;
