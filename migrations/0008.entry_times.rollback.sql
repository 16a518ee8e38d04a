-- transactional: false
set role bank_owner;

drop index concurrently if exists bank.entry_created_at;
