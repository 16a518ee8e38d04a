-- Payroll: all salaries of a month in one call, all or none. Nobody is paid while somebody else is not.
select account_id as company from bank.open_account('Company', 'EUR') \gset
select account_id as ada from bank.open_account('Ada Lovelace', 'EUR') \gset
select account_id as charles from bank.open_account('Charles Babbage', 'EUR') \gset
select account_id as mary from bank.open_account('Mary Somerville', 'EUR') \gset
\set balances 'select holder_name, balance_minor from bank.account_detail where account_id in (:company, :ada, :charles, :mary) order by account_id'
\echo The company has 8,000.00 EUR.
select credit_balance_after_minor from bank.credit(:company, 800000, 'payroll-story-turnover');

\echo That is not enough for three salaries of 3,000.00: the third stops the batch, and nobody is paid.
select credit_account_id, transaction_status, failure_code
from bank.post_transfers(
    array[:company, :company, :company], array[:ada, :charles, :mary], array[300000, 300000, 300000],
    array['2026-11-ada', '2026-11-charles', '2026-11-mary'], atomic => true
);
:balances;

\echo More money comes in. A rejection is an outcome, and its key stands for it: the second run has keys of its own.
select credit_balance_after_minor from bank.credit(:company, 500000, 'payroll-story-loan');
\set run 'select credit_account_id, transaction_status, debit_balance_after_minor, replayed from bank.post_transfers(array[:company, :company, :company], array[:ada, :charles, :mary], array[300000, 300000, 300000], array[\'2026-11-2-ada\', \'2026-11-2-charles\', \'2026-11-2-mary\'], atomic => true)'
:run;

\echo The connection broke before the answer came? The same call again pays nobody twice.
:run;
:balances;
