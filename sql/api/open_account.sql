-- Opens an account with a zero balance.
-- currency: upper-case code in bank.currency. overdraft_limit_minor: how far below zero the balance may go, in minor
-- units; null: without limit. external_id: your own name for the account, unique in the ledger. account_type: asset,
-- liability, equity, income or expense; it changes nothing about how the account is posted to.
-- idempotency_key: makes a retry safe. The same request with the same key opens nothing and returns the account as it
-- is now, replayed; what was asked for is compared, whatever was changed about the account since. Openings and
-- postings have separate keys: an opening and a posting may use the same one. A key that opened no account is not used
-- up.
-- Locks: none that a posting waits for; racing calls with the same key or external_id, or the first ones of a currency,
-- wait for each other.
-- Errors, in this order: invalid_argument, ledger_not_found, unknown_currency, idempotency_key_reused,
-- external_id_taken, sequence_behind.
-- Example: select * from bank.open_account('Ada Lovelace', 'EUR', external_id => 'ada', idempotency_key => 'ada');
create or replace function bank.open_account(
    holder_name text,
    currency text,
    overdraft_limit_minor numeric default 0,
    external_id text default null,
    metadata jsonb default '{}',
    ledger_id bigint default 1,
    account_type text default 'liability',
    idempotency_key text default null
) returns bank.opened_account
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    opened bank.opened_account;
begin
    select * into opened
    from bank.open_accounts(
        array[holder_name], array[currency], array[overdraft_limit_minor], array[external_id], array[metadata],
        array[account_type], array[idempotency_key], ledger_id
    );
    if opened.failure_code is not null then
        perform bank._raise(opened.failure_code, opened.failure_detail);
    end if;
    return opened;
end
$$;

comment on function bank.open_account is 'Opens an account with a zero balance';
