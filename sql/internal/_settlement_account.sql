-- The settlement account of a currency: the other side of money that enters or leaves the bank. Made at first use,
-- which is when the first account of the currency is opened, so that postings need only read it. It has stripes from
-- the beginning, because every credit and debit of the currency posts to it.
-- Locks: a racing first use waits for the other to commit, then finds its account.
create or replace function bank._settlement_account(currency text, ledger_id bigint) returns bigint
language plpgsql as $$
declare
    settlement_account_id bigint;
begin
    loop
        select a.account_id into settlement_account_id
        from bank.account as a
        where a.ledger_id = _settlement_account.ledger_id
            and a.currency = _settlement_account.currency
            and a.settlement;
        exit when found;
        insert into bank.account (
            ledger_id, holder_name, currency, account_type, settlement, overdraft_limit_minor
        )
        values (ledger_id, 'Settlement ' || currency, currency, 'asset', true, null)
        on conflict do nothing
        returning account.account_id into settlement_account_id;
        if found then
            perform bank._set_stripes(settlement_account_id, 16, ledger_id);
        end if;
    end loop;
    return settlement_account_id;
end
$$;
