-- Escrow: the buyer's money is reserved for the seller, and moves when the buyer has got what was bought, or is given
-- back. A hold is the escrow: nobody else can spend what it reserves, and only its beneficiary can get it.
select account_id as buyer from bank.open_account('Buyer', 'EUR') \gset
select account_id as seller from bank.open_account('Seller', 'EUR') \gset
\set balances 'select holder_name, balance_minor, held_minor, available_balance_minor from bank.account_detail where account_id in (:buyer, :seller) order by account_id'
\echo The buyer has 500.00 EUR.
select credit_balance_after_minor from bank.credit(:buyer, 50000, 'escrow-story-savings');

\echo The buyer puts 300.00 for a bicycle and 150.00 for a lamp into escrow.
select transaction_id as bicycle
from bank.authorise(:buyer, 30000, :seller, idempotency_key => 'bicycle', description => 'Bicycle') \gset
select transaction_id as lamp
from bank.authorise(:buyer, 15000, :seller, idempotency_key => 'lamp', description => 'Lamp') \gset
:balances;

\echo What is in escrow cannot be spent elsewhere.
select transaction_status, failure_code, failure_detail from bank.debit(:buyer, 10000);

\echo The bicycle has arrived: the money is released to the seller.
select transaction_type, transaction_status, amount_minor
from bank.capture(:bicycle, idempotency_key => 'bicycle-arrived');

\echo A message that comes twice is answered twice, and pays once.
select transaction_type, transaction_status, amount_minor, replayed
from bank.capture(:bicycle, idempotency_key => 'bicycle-arrived');

\echo The lamp is broken: the buyer gets the money back, and the seller cannot have it any more.
select transaction_type, transaction_status, amount_minor from bank.void(:lamp, idempotency_key => 'lamp-broken');
select transaction_type, transaction_status, failure_code, failure_detail ->> 'hold_status' as hold_status
from bank.capture(:lamp, idempotency_key => 'lamp-arrived');
:balances;
