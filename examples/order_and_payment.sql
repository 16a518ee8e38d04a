-- An order and its payment in one transaction: both or neither. The order is a row in a table of the caller's own; the
-- payment is bank.transfer. bank.require_success turns a rejection into an error, which rolls back both.
create temporary table orders (
    order_id bigint primary key,
    item text not null,
    amount_minor bigint not null,
    payment_id bigint not null -- the transaction_id of the payment
);
select account_id as ada from bank.open_account('Ada Lovelace', 'EUR') \gset
select account_id as shop from bank.open_account('The Book Shop', 'EUR') \gset
\echo Ada has 100.00 EUR.
select credit_balance_after_minor from bank.credit(:ada, 10000, 'order-story-salary');

\echo She orders a book for 65.00: payment and order are committed together.
begin;
select transaction_id as payment
from bank.require_success(bank.transfer(:ada, :shop, 6500, 'order-1', description => 'Order 1')) \gset
insert into orders values (1, 'Notes on the Analytical Engine', 6500, :payment);
commit;

\echo The second one costs 50.00, and only 35.00 is left: the error rolls the order back.
begin;
insert into orders values (2, 'Sketch of the Analytical Engine', 5000, 0);
update orders
set payment_id = paid.transaction_id
from bank.require_success(bank.transfer(:ada, :shop, 5000, 'order-2', description => 'Order 2')) as paid
where order_id = 2;
commit;

\echo One order and one payment, and no trace of the second: its key is free for another attempt.
select o.order_id, o.item, p.transaction_status, p.amount_minor, p.description
from orders as o
inner join bank.posting as p on o.payment_id = p.transaction_id and p.ledger_id = 1;
select count(*) as attempts from bank.posting where idempotency_key in ('order-1', 'order-2');
select holder_name, balance_minor from bank.account_detail where account_id in (:ada, :shop) order by account_id;
