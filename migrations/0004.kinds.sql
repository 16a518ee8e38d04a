-- The kinds of postings and states of accounts that 0005 is about: a new value of an enum cannot be used in the
-- transaction that adds it.
-- transactional: false
-- depends: 0001.ledger

set role bank_owner;

alter type bank.account_status add value if not exists 'debits_frozen' before 'closed';  -- nothing is taken
alter type bank.account_status add value if not exists 'credits_frozen' before 'closed'; -- nothing is put in

alter type bank.transaction_type add value if not exists 'hold';        -- reserves, moves nothing
alter type bank.transaction_type add value if not exists 'capture';     -- takes what a hold reserved
alter type bank.transaction_type add value if not exists 'void';        -- gives a hold up, moves nothing
alter type bank.transaction_type add value if not exists 'reversal';    -- takes an earlier one back, in full or in part
alter type bank.transaction_type add value if not exists 'exchange';    -- four legs, two currencies
alter type bank.transaction_type add value if not exists 'compound';    -- any number of legs
alter type bank.transaction_type add value if not exists 'cross_ledger'; -- one side of a transfer between two ledgers
