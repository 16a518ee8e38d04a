set local role bank_owner;

alter table bank.installation drop column breaking_migration_id;
