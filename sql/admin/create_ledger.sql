-- Opens a new, empty ledger: a book of its own, whose accounts and keys no other ledger sees.
create or replace function bank.create_ledger(name text) returns bank.ledger
language plpgsql set search_path = bank, pg_temp as $$
declare
    result bank.ledger;
begin
    insert into bank.ledger as l (name) values (name) returning l.* into result;
    return result;
end
$$;

comment on function bank.create_ledger is 'Opens a new, empty ledger';
