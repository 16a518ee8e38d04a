-- What a caller asked, where the columns of a transaction do not say it, and what was taken back of a transaction.
-- depends: 0005.movements

set local role bank_owner;

-- request: arguments that a retry must repeat and that have no column of their own: whether all that was left was
-- asked for (amount_minor null), final, force, at_most_minor, tolerance and deadline of a hold, conditions, the account
-- in the other ledger. Null for a credit, debit, transfer, exchange or void, whose columns say all, and for what was
-- recorded before this migration, of which only the columns are compared.
-- reversed_minor: written by every reversal, so that a second one that waited for the first, or has an older snapshot,
-- meets a changed row: a row that was only locked looks unchanged under REPEATABLE READ. bank._fill_in_reversals fills
-- it in once the functions that write it are there.
alter table bank.transaction
add column request jsonb,
add column reversed_minor bigint;

comment on column bank.transaction.reversed_minor is
'What successful reversals have taken back, null for nothing; of a transaction of several legs its amount_minor';

-- Transactions below this id may have been recorded without their request.
alter table bank.installation add column requests_recorded_from bigint;

update bank.transaction as t
set
    request = jsonb_build_object(
        'tolerance_minor', h.tolerance_minor, 'expires_at', h.expires_at at time zone 'UTC'
    )
from bank.hold as h
where t.ledger_id = h.ledger_id and t.transaction_id = h.hold_id;

-- Later years cannot be read by every client; Python's last one is 9999.
update bank.hold
set expires_at = '9998-12-31 00:00:00+00'
where expires_at >= '9999-01-01 00:00:00+00';

update bank.transaction as t
set
    request = jsonb_build_object(
        'credit_ledger_id', theirs.ledger_id, 'credit_account_id', theirs.credit_account_id
    )
from bank.transaction as theirs
where
    t.transaction_type = 'cross_ledger'
    and t.idempotency_key is not null
    and theirs.ledger_id = t.counterpart_ledger_id
    and theirs.transaction_id = t.original_transaction_id;

update bank.transaction
set request = jsonb_build_object('credit_ledger_id', counterpart_ledger_id)
where transaction_type = 'cross_ledger' and idempotency_key is not null and transaction_status = 'failure';
