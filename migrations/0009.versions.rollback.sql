set local role bank_owner;

drop table bank.installed_version;
