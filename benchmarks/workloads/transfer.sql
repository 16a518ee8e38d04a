\set debit random(2, 100001)
\set credit random(2, 100001)
select * from bank.transfer(:debit, :credit, 1);
