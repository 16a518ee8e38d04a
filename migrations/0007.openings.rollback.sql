-- The accounts stay; that they were opened with a key is forgotten, which earlier versions did not know of either.
set local role bank_owner;

drop view if exists bank.opened_account cascade;
drop table bank.opening;
