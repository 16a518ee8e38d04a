-- Opens an account with a zero balance.
-- currency: upper-case code in bank.currency. overdraft_limit_minor: how far below zero the balance may go, in minor
-- units; null: without limit. external_id: your own name for the account, unique in the ledger.
-- Locks: none that a posting waits for; racing calls with the same external_id, or the first ones of a currency,
-- wait for each other.
-- Errors, in this order: invalid_argument, ledger_not_found, unknown_currency, external_id_taken.
-- Example: select * from bank.open_account('Ada Lovelace', 'EUR', external_id => 'customer-1');
create or replace function bank.open_account(
    holder_name text,
    currency text,
    overdraft_limit_minor numeric default 0,
    external_id text default null,
    metadata jsonb default '{}',
    ledger_id bigint default 1
) returns bank.account_detail
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    fault jsonb;
    opened_account_id bigint;
begin
    select jsonb_build_object('field', checked.field, 'reason', checked.reason)
    into fault
    from (
        values
        ('holder_name', coalesce(bank._text_fault(holder_name, 100), case when holder_name is null then 'is required' end)),
        ('currency', case when currency is null then 'is required' end),
        ('overdraft_limit_minor', case
            when overdraft_limit_minor between 0 and 9007199254740991
                and overdraft_limit_minor = trunc(overdraft_limit_minor) then null
            when overdraft_limit_minor is not null then 'is not a whole number from 0 to 9007199254740991'
        end),
        ('external_id', bank._text_fault(external_id, 255)),
        ('metadata', bank._metadata_fault(metadata))
    ) as checked (field, reason)
    where checked.reason is not null
    limit 1;
    if found then
        perform bank._raise('invalid_argument', fault);
    end if;

    perform from bank.ledger as l where l.ledger_id = open_account.ledger_id;
    if not found then
        perform bank._raise('ledger_not_found', jsonb_build_object('field', 'ledger_id', 'reason', 'does not exist'));
    end if;
    perform from bank.currency as c where c.currency = open_account.currency;
    if not found then
        perform bank._raise('unknown_currency', jsonb_build_object('field', 'currency', 'reason', 'is not a known currency code'));
    end if;

    perform bank._book_account('settlement', currency, ledger_id);

    insert into bank.account (ledger_id, holder_name, currency, overdraft_limit_minor, external_id, metadata)
    values (ledger_id, holder_name, currency, overdraft_limit_minor, external_id, coalesce(metadata, '{}'))
    on conflict do nothing
    returning account.account_id into opened_account_id;
    if not found then
        perform bank._raise('external_id_taken', (
            select jsonb_build_object('field', 'external_id', 'reason', 'is taken', 'account_id', a.account_id)
            from bank.account as a
            where a.ledger_id = open_account.ledger_id and a.external_id = open_account.external_id
        ));
    end if;
    return bank.account(opened_account_id, ledger_id);
end
$$;

comment on function bank.open_account is 'Opens an account with a zero balance';
