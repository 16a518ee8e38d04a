-- The deadlines that were brought forward to the year 9998 stay there.
set local role bank_owner;

alter table bank.installation drop column requests_recorded_from;
alter table bank.transaction
drop column request,
drop column reversed_minor;
