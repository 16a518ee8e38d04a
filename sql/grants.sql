-- What each role may do. The app's role executes the public functions and reads the public views, nothing more;
-- sql/admin/ is for bank_owner alone. Runs last, at every install, so that a new function is never left open to PUBLIC.
revoke all on schema bank from public;
revoke all on all tables in schema bank from public, bank_app, bank_reader;
revoke all on all sequences in schema bank from public, bank_app, bank_reader;
revoke all on all functions in schema bank from public, bank_app, bank_reader;
alter default privileges for role bank_owner in schema bank revoke all on tables from public;
alter default privileges for role bank_owner revoke execute on functions from public;

grant usage on schema bank to bank_app, bank_reader;

grant select on
bank.posting,
bank.account_detail,
bank.account_balance,
bank.statement_line,
bank.hold_detail,
bank.limit_detail,
bank.change_detail,
bank.account_transaction,
bank.error,
bank.currency
to bank_app, bank_reader;

-- Arithmetic that the views are made of: who reads a view must be allowed to call what it calls.
grant execute on function
bank._account_of,
bank._stripe_id
to bank_app, bank_reader;

grant execute on function
bank.account,
bank.balance,
bank.balances,
bank.statement,
bank.get_transaction,
bank.find_transaction,
bank.hold,
bank.limits,
bank.account_changes,
bank.verify,
bank.verify_slice
to bank_app, bank_reader;

grant execute on function
bank.open_account,
bank.open_accounts,
bank.credit,
bank.debit,
bank.transfer,
bank.post,
bank.post_transfers,
bank.post_legs,
bank.authorise,
bank.capture,
bank.void,
bank.end_expired_holds,
bank.reverse,
bank.exchange,
bank.sweep,
bank.transfer_to_ledger,
bank.explain_transfer,
bank.freeze_account,
bank.unfreeze_account,
bank.close_account,
bank.reopen_account,
bank.set_limit,
bank.stripe_account,
bank.require_success,
bank.authenticate,
bank.health,
bank.locked_rows,
bank.principals,
bank.read_only_reason,
bank.has_entries_from_the_future
to bank_app;
