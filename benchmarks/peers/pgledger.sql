-- pgledger_create_transfer between two different accounts. Their ids are texts, found by number in a table of ours.
\set debit random(1, :accounts)
\set credit 1 + (:debit - 1 + random(1, :accounts - 1)) % :accounts
\set amount random(1, 10000)
select transfer.*
from load.account as d
cross join load.account as c
cross join lateral pgledger_create_transfer(d.id, c.id, :amount) as transfer
where d.number = :debit and c.number = :credit;
