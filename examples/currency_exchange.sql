-- Exchange: euros become yen at a given rate, in one transaction of four legs. The ledger's liquidity accounts are between
-- them, so that each currency sums to zero on its own. The yen has no minor unit: 10000 is 10,000 yen.
select account_id as euros from bank.open_account('Ada Lovelace', 'EUR') \gset
select account_id as yen from bank.open_account('Ada Lovelace', 'JPY') \gset
\echo Ada has 500.00 EUR.
select credit_balance_after_minor from bank.credit(:euros, 50000, 'exchange-story-salary');

\echo 123.45 EUR at 163.27 yen for a euro are 20155.6815 yen. What is not a whole yen is cut off, and recorded.
select transaction_id as exchange
from bank.exchange(:euros, :yen, 12345, 163.27, idempotency_key => 'holiday-money') \gset
select transaction_status, amount_minor, currency, exchange_rate, exchange_residue_minor
from bank.get_transaction(:exchange);
select a.holder_name, a.currency, (leg ->> 'amount_minor')::bigint as amount_minor
from bank.get_transaction(:exchange) as x
cross join jsonb_array_elements(x.legs) with ordinality as legs (leg, n)
inner join bank.account_detail as a on a.ledger_id = x.ledger_id and a.account_id = (leg ->> 'account_id')::bigint
order by n;

\echo The same key with another rate is another request.
\set VERBOSITY terse
select transaction_status from bank.exchange(:euros, :yen, 12345, 163.50, idempotency_key => 'holiday-money');

\echo A cent is not worth a yen at this rate, and is not taken for nothing.
select transaction_status, failure_code from bank.exchange(:euros, :yen, 1, 0.99, idempotency_key => 'too-little');

\echo Every currency sums to zero.
select currency, sum(balance_minor) as sum_minor from bank.account_balance where ledger_id = 1 group by currency order by 1;
select count(*) as violations from bank.verify();
