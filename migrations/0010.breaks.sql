-- Services are told by it that they cannot go on, although functions of theirs are installed.
-- depends: 0009.versions

set local role bank_owner;

alter table bank.installation add column breaking_migration_id text;

comment on column bank.installation.breaking_migration_id is
'The last migration here that breaks running services: one whose version does not have it cannot go on';
