-- The settlement account of an account's currency, or null when the account does not exist.
-- Reads only what never changes, so it takes no lock.
create or replace function bank._settlement_account_of(account_id bigint, ledger_id bigint) returns bigint
language plpgsql stable as $$
begin
    return (
        select s.account_id
        from bank.account as a
        inner join bank.account as s
            on a.ledger_id = s.ledger_id and a.currency = s.currency and s.settlement
        where a.ledger_id = _settlement_account_of.ledger_id
            and a.account_id = _settlement_account_of.account_id
    );
end
$$;
