-- An index that tells readiness within a few pages whether there are entries from the future, at any size of the
-- history. Entries lie in the order of time, so that the first and last time of each 128 pages say enough (BRIN):
-- nothing is written for an entry but by the first one of a new range, which asks autovacuum to summarise the range
-- before. Outside of a transaction, so that the bank goes on posting meanwhile. One that was interrupted leaves an
-- index that is not valid: it is dropped first.
-- transactional: false
-- depends: 0001.ledger

set role bank_owner;

drop index concurrently if exists bank.entry_created_at;

create index concurrently entry_created_at on bank.entry
using brin (created_at) with (pages_per_range = 128, autosummarize = on);
