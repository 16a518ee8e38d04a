-- An account as it stands, or account_not_found with the name of the argument that named it. Locks nothing: only what
-- never changes about an account may be relied upon.
create or replace function bank._named_account(
    account_id bigint,
    field text,
    ledger_id bigint
) returns bank.account_detail
language plpgsql stable as $$
declare
    account bank.account_detail;
    facts jsonb;
begin
    select * into account from bank.account_detail as a
    where a.ledger_id = _named_account.ledger_id and a.account_id = _named_account.account_id;
    if not found then
        facts := jsonb_build_object(
            'field', field,
            'reason', case when account_id is null then 'is required' else 'does not exist' end,
            'account_id', account_id
        );
        perform bank._raise(bank._account_fault_code(facts), facts);
    end if;
    return account;
end
$$;
