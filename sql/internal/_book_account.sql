-- An account that the ledger itself needs in a currency, by its purpose: settlement, the other side of money that
-- enters or leaves the bank; liquidity, which exchanges go through; clearing, which transfers to other ledgers go
-- through. Made at first use, so that postings need only read it. It has stripes from the beginning, because
-- everybody posts to it.
-- Locks: a racing first use waits for the other to commit, then finds its account.
create or replace function bank._book_account(purpose text, currency text, ledger_id bigint) returns bigint
language plpgsql as $$
declare
    book_account_id bigint;
    drawn_id bigint;
begin
    loop
        select a.account_id into book_account_id
        from bank.account as a
        where a.ledger_id = _book_account.ledger_id
            and a.currency = _book_account.currency
            and (
                a.settlement and purpose = 'settlement'
                or a.liquidity and purpose = 'liquidity'
                or a.clearing and purpose = 'clearing'
            );
        exit when found;
        -- An insert that met no account of this purpose met another account with its id.
        if drawn_id is not null then
            perform bank._raise_sequence_behind('account_id', drawn_id);
        end if;
        -- Where there is an account there is a settlement account: a debit out of the bank goes through it.
        if purpose <> 'settlement' then
            perform bank._book_account('settlement', currency, ledger_id);
        end if;
        drawn_id := nextval('bank.account_account_id_seq');
        insert into bank.account (
            ledger_id, account_id, holder_name, currency, account_type, overdraft_limit_minor,
            settlement, liquidity, clearing
        )
        values (
            ledger_id, drawn_id, initcap(purpose) || ' ' || currency, currency, 'asset', null,
            purpose = 'settlement', purpose = 'liquidity', purpose = 'clearing'
        )
        on conflict do nothing
        returning account.account_id into book_account_id;
        if found then
            perform bank._set_stripes(book_account_id, 16, ledger_id);
            exit;
        end if;
    end loop;
    return book_account_id;
end
$$;
