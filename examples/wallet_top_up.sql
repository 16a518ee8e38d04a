-- A wallet: money comes in from outside by a card payment, within limits that the wallet has. Each limit has a failure
-- code of its own, and what was changed about an account is kept with who did it.
select account_id as wallet from bank.open_account('Ada Lovelace', 'EUR', external_id => 'wallet-story') \gset
select account_id as shop from bank.open_account('The Book Shop', 'EUR') \gset

\echo At most 250.00 on the wallet, and at most 100.00 a day out of it, in at most three payments.
select account_id
from bank.set_limit(:wallet, 'maximum_balance', 25000, reason => 'not identified', changed_by => 'onboarding') \gset
select account_id
from bank.set_limit(:wallet, 'day', 10000, count_max => 3, reason => 'not identified', changed_by => 'onboarding') \gset
select limit_kind, amount_max_minor, count_max from bank.limits(:wallet);

\echo The card company tells of a top-up twice: it is credited once.
select transaction_status, credit_balance_after_minor, replayed from bank.credit(:wallet, 20000, 'card-payment-981');
select transaction_status, credit_balance_after_minor, replayed from bank.credit(:wallet, 20000, 'card-payment-981');

\echo Another one would pass the maximum.
select transaction_status, failure_code, failure_detail ->> 'limit_minor' as limit_minor
from bank.credit(:wallet, 10000, 'card-payment-982');

\echo 80.00 of the 100.00 a day are spent; 30.00 more would be too much.
select transaction_status, debit_balance_after_minor from bank.transfer(:wallet, :shop, 8000, 'purchase-1');
select
    transaction_status, failure_code,
    failure_detail ->> 'limit_minor' as limit_minor, failure_detail ->> 'used_minor' as used_minor
from bank.transfer(:wallet, :shop, 3000, 'purchase-2');

\echo Ada is identified: the limit of the day is lifted.
select account_id
from bank.set_limit(:wallet, 'day', reason => 'passport seen', changed_by => 'identification') \gset
select transaction_status, debit_balance_after_minor from bank.transfer(:wallet, :shop, 3000, 'purchase-2-again');
select change_number, change_type, changed_by, reason, before, after
from bank.account_changes(:wallet) order by change_number;
