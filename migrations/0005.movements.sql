-- Holds, limits, legs, and the history of what was changed about an account.
-- depends: 0004.kinds

set local role bank_owner;

create type bank.hold_status as enum (
    'open',     -- -> captured, voided, expired
    'captured', -- final: what was not captured is free again
    'voided',   -- final
    'expired'   -- final; by time an open hold is expired as soon as its deadline has passed
);

create type bank.limit_kind as enum (
    'minimum_balance', -- of what is not held, after a debit
    'maximum_balance', -- after a credit
    'transaction',     -- the amount of one debit
    'day',             -- amount and number of debits of a day, week, month in UTC
    'week',
    'month'
);

-- limited: the account has rows in account_limit, which postings look at then, and only then.
alter table bank.account
add column limited boolean not null default false,
add column liquidity boolean not null default false,
add column clearing boolean not null default false;

comment on column bank.account.liquidity is 'The account of its currency that exchanges go through';
comment on column bank.account.clearing is 'The account of its currency that transfers to other ledgers go through';

-- Prevents two such accounts of one currency when the first use is raced.
create unique index account_liquidity on bank.account (ledger_id, currency)
where liquidity;
create unique index account_clearing on bank.account (ledger_id, currency)
where clearing;

-- original_transaction_id: the hold of a capture or void, what a reversal takes back, the side in the other ledger.
-- legs: of an exchange or a compound transaction, in the order given: account_id, amount_minor (signed), currency, the
-- version of the entry, and the balance after it; of a striped account also the stripe, and then no balance.
alter table bank.transaction
add column original_transaction_id bigint,
add column counterpart_ledger_id bigint,
add column exchange_rate numeric,
add column exchange_residue_minor numeric,
add column legs jsonb,
drop constraint transaction_check,
add constraint transaction_check check (
    amount_minor > 0
    and (transaction_status = 'success') = (failure_code is null)
    and (transaction_status = 'success' and transaction_type not in ('hold', 'void'))
    = (debit_version is not null and credit_version is not null)
);

-- A changed parameter list is another function to PostgreSQL.
drop function if exists bank._post_one(
    bank.transaction_type, bigint, bigint, numeric, text, text, text, jsonb, bigint
);
drop function if exists bank._post(
    bank.transaction_type[], bigint[], bigint[], bigint[], text[], text[], text[], jsonb[], boolean, bigint
);
drop function if exists bank._batch_fault(
    text[], bigint[], bigint[], bigint[], text[], text[], text[], jsonb[]
);
drop function if exists bank.post(
    text[], bigint[], bigint[], bigint[], text[], text[], text[], jsonb[], boolean, bigint
);
drop function if exists bank.post_transfers(bigint[], bigint[], bigint[], text[], text[], boolean, bigint);
drop function if exists bank._settlement_account(text, bigint);
drop function if exists bank._lock_stripe(bigint, bigint);
drop function if exists bank._replay(
    bank.transaction_type, bigint, bigint, bigint, text, text, text, jsonb, bigint
);
drop function if exists bank._reuse_facts(
    bank.posting, bank.transaction_type, bigint, bigint, bigint, text, text, jsonb
);

-- Serves the sum of what was reversed of a transaction, and the history of a hold.
create index transaction_original on bank.transaction (ledger_id, original_transaction_id)
where original_transaction_id is not null;

-- Money that is reserved. hold_id is the transaction that authorised it. Every change happens under the lock of the
-- account, whose held_minor is the sum of what is left of its open holds, the expired ones too until they are ended.
create table bank.hold (
    ledger_id bigint not null,
    hold_id bigint not null,
    account_id bigint not null,
    amount_minor bigint not null check (amount_minor > 0),
    captured_minor bigint not null default 0 check (captured_minor >= 0),
    tolerance_minor bigint not null default 0 check (tolerance_minor >= 0),
    expires_at timestamptz,
    ended_at timestamptz,
    hold_status bank.hold_status not null default 'open',
    primary key (ledger_id, hold_id),
    check ((hold_status = 'open') = (ended_at is null)),
    check (captured_minor <= amount_minor + tolerance_minor)
);

comment on column bank.hold.expires_at is 'Null: never';
comment on column bank.hold.tolerance_minor is 'How much more than amount_minor may be captured in all';

-- Serve the search for expired holds of an account, and of a ledger.
create index hold_open_of_account on bank.hold (ledger_id, account_id, expires_at)
where hold_status = 'open';
create index hold_open on bank.hold (ledger_id, expires_at)
where hold_status = 'open';

-- used_minor and used_count are of the window that began at window_started_at.
create table bank.account_limit (
    ledger_id bigint not null,
    account_id bigint not null,
    limit_kind bank.limit_kind not null,
    amount_max_minor bigint,
    count_max bigint check (count_max >= 0),
    window_started_at timestamptz not null default '-infinity',
    used_minor bigint not null default 0,
    used_count bigint not null default 0,
    primary key (ledger_id, account_id, limit_kind),
    check (amount_max_minor is not null or count_max is not null)
);

-- Append-only: who changed what about an account, when, from what, to what. Numbered without gaps for each account.
create table bank.account_change (
    ledger_id bigint not null,
    account_id bigint not null,
    change_number bigint not null,
    changed_at timestamptz not null default clock_timestamp(),
    changed_by text not null,
    change_type text not null,
    before jsonb not null,
    after jsonb not null,
    reason text,
    primary key (ledger_id, account_id, change_number)
);

-- The order in which errors go before each other within a kind.
alter table bank.error add column precedence smallint not null default 0;

-- A scope more: reversals that overdraw.
alter table bank.api_key
drop constraint api_key_scopes_check,
add constraint api_key_scopes_check check (
    scopes <@ array['accounts:read', 'accounts:write', 'transactions:write', 'transactions:force', 'admin']
    and scopes <> '{}'
);
