-- A marketplace: the buyer pays once, the seller gets the price less a fee, the marketplace gets the fee. One transaction
-- of three legs: all of them or none. Legs of one currency sum to zero.
select account_id as buyer from bank.open_account('Buyer', 'EUR') \gset
select account_id as seller from bank.open_account('Seller', 'EUR') \gset
select account_id as fees from bank.open_account('Marketplace fees', 'EUR') \gset
\set balances 'select holder_name, balance_minor, version from bank.account_detail where account_id in (:buyer, :seller, :fees) order by account_id'
\echo The buyer has 200.00 EUR.
select credit_balance_after_minor from bank.credit(:buyer, 20000, 'marketplace-story-savings');

\echo A sale of 100.00 with a fee of 3 %.
select transaction_id as sale
from bank.post_legs(
    array[:buyer, :seller, :fees], array[-10000, 9700, 300],
    idempotency_key => 'sale-1', description => 'Sale 1'
) \gset
select transaction_status, amount_minor, description from bank.get_transaction(:sale);
:balances;

\echo A voucher of 20.00 pays a part of the next one: two debits, two credits.
select account_id as vouchers
from bank.open_account('Vouchers', 'EUR', overdraft_limit_minor => 100000) \gset
select transaction_status, amount_minor
from bank.post_legs(
    array[:buyer, :vouchers, :seller, :fees], array[-3000, -2000, 4850, 150],
    idempotency_key => 'sale-2', description => 'Sale 2'
);

\echo A condition: only if the buyer keeps 50.00. It does not hold, and no leg is posted.
select transaction_status, failure_code, failure_detail
from bank.post_legs(
    array[:buyer, :seller, :fees], array[-4000, 3880, 120],
    conditions => jsonb_build_array(jsonb_build_object('account_id', :buyer, 'balance_at_least_minor', 5000)),
    idempotency_key => 'sale-3', description => 'Sale 3'
);

\echo The first sale is taken back, with the fee, and only once.
select transaction_type, transaction_status, amount_minor from bank.reverse(:sale, idempotency_key => 'return-1');
select transaction_type, transaction_status, failure_code from bank.reverse(:sale, idempotency_key => 'return-1-again');
:balances;
