-- Between two accounts, in either direction.
\set direction random(0, 1)
\set debit :first + :direction
\set credit :first + 1 - :direction
\set amount random(1, 10000)
select * from bank.transfer(:debit, :credit, :amount);
