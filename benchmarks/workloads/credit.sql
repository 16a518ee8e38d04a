\set account random(2, 100001)
select * from bank.credit(:account, 1);
