-- Money from outside: the settlement account of the currency is on the other side of all of them.
\set account random(:first, :last)
\set amount random(1, 10000)
select * from bank.credit(:account, :amount);
