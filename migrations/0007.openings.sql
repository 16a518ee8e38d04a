-- Openings: under which idempotency key an account was opened, and what was asked for.
-- depends: 0006.requests

set local role bank_owner;

-- One row for every account that was opened with a key. request: the arguments that a retry must repeat exactly; the
-- account itself may have another name or limit by then. Not columns of bank.account, whose rows are hot.
-- The primary key prevents a retry from opening a second account.
create table bank.opening (
    ledger_id bigint not null,
    idempotency_key text not null,
    account_id bigint not null,
    request jsonb not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (ledger_id, idempotency_key)
);
