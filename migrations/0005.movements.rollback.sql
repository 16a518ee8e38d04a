-- Fails where a posting of a kind that only this migration knows was made, or a limit is set.
set local role bank_owner;

do $$
begin
    if exists (
        select from bank.transaction as t where t.transaction_type not in ('credit', 'debit', 'transfer')
        union all
        select from bank.account_limit
    ) then
        raise exception 'there are postings or limits of a newer version: this migration cannot be undone';
    end if;
end
$$;

drop view if exists
bank.posting, bank.account_balance, bank.statement_line, bank.account_transaction, bank._postable cascade;
drop table bank.hold, bank.account_limit, bank.account_change cascade;
drop type bank.hold_status, bank.limit_kind cascade;
alter table bank.transaction
drop constraint transaction_check,
add constraint transaction_check check (
    amount_minor > 0
    and (transaction_status = 'success') = (failure_code is null)
    and (transaction_status = 'success') = (debit_version is not null and credit_version is not null)
),
drop column original_transaction_id,
drop column counterpart_ledger_id,
drop column exchange_rate,
drop column exchange_residue_minor,
drop column legs;
alter table bank.account drop column limited, drop column liquidity, drop column clearing;
alter table bank.error drop column precedence;
alter table bank.api_key
drop constraint api_key_scopes_check,
add constraint api_key_scopes_check check (
    scopes <@ array['accounts:read', 'accounts:write', 'transactions:write', 'admin'] and scopes <> '{}'
);
