-- From one unlimited account, :hot, to any other.
\set credit random(:first, :last)
\set amount random(1, 10000)
select * from bank.transfer(:hot, :credit, :amount);
