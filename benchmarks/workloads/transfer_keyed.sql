-- The same with an idempotency key, a random UUID: the worst kind for an index.
\set debit random(:first, :last)
\set credit :first + (:debit - :first + random(1, :last - :first)) % (:last - :first + 1)
\set amount random(1, 10000)
select * from bank.transfer(:debit, :credit, :amount, gen_random_uuid()::text);
