-- The balance of any account.
\set account random(:first, :last)
select * from bank.balance(:account);
