-- The posting engine for two accounts: whatever moves money from one to another goes through here.
--
-- Moves amount_minor from debit_account_id to credit_account_id. A credit without a debit account, and anything else
-- without a credit account, has the settlement account of the currency on that side. A hold moves nothing but reserves
-- the amount on the debited account; a void moves nothing either. released_minor: what a capture or a void takes out of
-- the held part of the debited account.
-- prior_code, prior_detail: a rejection that the caller found before, under the lock of the accounts; it is recorded in
-- place of one that would be found here.
-- request: what the caller asked that no column says (bank.transaction.request); a retry is compared with it.
--
-- Checks, in this order: invalid_amount, invalid_argument, account_not_found (the debited account first) raise;
-- a used idempotency key replays its recorded outcome or raises idempotency_key_reused; then prior_code,
-- bank._rejection and the limits of the accounts, whose outcome is recorded and returned.
--
-- Locks: both accounts, FOR NO KEY UPDATE, in ascending account_id, so that two calls never wait for each other; of a
-- striped account one stripe, after the accounts themselves. A caller who composes several calls in one transaction
-- keeps that order across them, or retries on 40P01.
-- The key is decided by the insert after the locks: its unique index sees what was committed while we waited, which
-- the snapshot of an earlier statement does not.
-- A transaction has the clock's time. An entry is never earlier than the last one of its own account; where the clock
-- has stepped back that account's entries wait for it, and nobody else's.
create or replace function bank._post_one(
    transaction_type bank.transaction_type,
    debit_account_id bigint,
    credit_account_id bigint,
    amount_minor numeric,
    idempotency_key text,
    description text,
    external_id text,
    metadata jsonb,
    ledger_id bigint,
    original_transaction_id bigint default null,
    prior_code text default null,
    prior_detail jsonb default null,
    released_minor bigint default 0,
    counterpart_ledger_id bigint default null,
    request jsonb default null
) returns bank.posting
language plpgsql as $$
declare
    amount constant bigint := bank._amount(amount_minor);
    fault jsonb := bank._posting_fault(idempotency_key, description, external_id, metadata);
    stored_metadata constant jsonb := nullif(metadata, '{}');
    debit_account bank._postable;
    credit_account bank._postable;
    -- What a capture takes beyond its hold is spent now; the rest was when it was authorised.
    window_minor constant bigint := greatest(amount - released_minor, 0);
    failure_code text;
    failure_detail jsonb;
    posted_id bigint;
    posted_at timestamptz;
    debit_balance bigint;
    credit_balance bigint;
    debit_version bigint;
    credit_version bigint;
begin
    if fault is not null then
        perform bank._raise('invalid_argument', fault);
    end if;

    if transaction_type = 'credit' then
        debit_account_id := bank._settlement_account_of(credit_account_id, ledger_id);
    elsif credit_account_id is null and transaction_type <> 'transfer' then
        credit_account_id := bank._settlement_account_of(debit_account_id, ledger_id);
    end if;

    if debit_account_id < credit_account_id then
        select * into debit_account from bank._postable as a
        where a.ledger_id = _post_one.ledger_id and a.account_id = debit_account_id and a.stripes = 0
        for no key update;
        select * into credit_account from bank._postable as a
        where a.ledger_id = _post_one.ledger_id and a.account_id = credit_account_id and a.stripes = 0
        for no key update;
    else
        select * into credit_account from bank._postable as a
        where a.ledger_id = _post_one.ledger_id and a.account_id = credit_account_id and a.stripes = 0
        for no key update;
        select * into debit_account from bank._postable as a
        where a.ledger_id = _post_one.ledger_id and a.account_id = debit_account_id and a.stripes = 0
        for no key update;
    end if;
    if debit_account.account_id is null or credit_account.account_id is null then
        if debit_account.account_id is null and debit_account_id < credit_account_id then
            debit_account := bank._lock_stripe(debit_account_id, ledger_id);
        end if;
        if credit_account.account_id is null then
            credit_account := bank._lock_stripe(credit_account_id, ledger_id);
        end if;
        if debit_account.account_id is null then
            debit_account := bank._lock_stripe(debit_account_id, ledger_id);
        end if;
    end if;
    if debit_account.account_id is null or credit_account.account_id is null then
        fault := bank._account_fault(
            transaction_type, debit_account_id, credit_account_id, debit_account.account_id is not null
        );
        perform bank._raise(bank._account_fault_code(fault), fault);
    end if;

    if transaction_type = 'hold' and debit_account.stripes <> 0 then
        perform bank._raise('account_striped', jsonb_build_object(
            'field', 'account_id', 'reason', 'is striped', 'account_id', debit_account_id
        ));
    end if;
    if released_minor > 0 then
        -- The caller ended what had expired, and decided by that: the clock may pass the hold's deadline since.
        debit_account.held_minor := debit_account.held_minor - released_minor;
    elsif debit_account.held_minor > 0 then
        debit_account.held_minor := coalesce(
            bank._end_expired_holds(debit_account_id, ledger_id), debit_account.held_minor
        );
    end if;
    posted_at := clock_timestamp();

    if prior_code is not null then
        failure_code := prior_code;
        failure_detail := prior_detail;
    elsif transaction_type <> 'void' then
        failure_code := bank._rejection(
            debit_account_id = credit_account_id,
            debit_account.account_status, credit_account.account_status,
            debit_account.currency, credit_account.currency,
            debit_account.balance_minor - debit_account.held_minor,
            debit_account.balance_minor - debit_account.held_minor + debit_account.overdraft_limit_minor,
            credit_account.balance_minor, amount
        );
        if failure_code is null and (debit_account.limited or credit_account.limited) then
            failure_detail := bank._limit_rejection(
                debit_account_id, credit_account_id,
                debit_account.balance_minor - debit_account.held_minor - amount, credit_account.balance_minor + amount,
                case when transaction_type <> 'reversal' then amount end,
                case when transaction_type <> 'reversal' then window_minor end,
                case when transaction_type not in ('reversal', 'capture') then 1 end,
                posted_at, ledger_id
            );
            failure_code := failure_detail ->> 'failure_code';
            failure_detail := failure_detail - 'failure_code';
        end if;
    end if;
    if failure_code is null then
        if transaction_type <> 'hold' and transaction_type <> 'void' then
            debit_balance := debit_account.balance_minor - amount;
            credit_balance := credit_account.balance_minor + amount;
            debit_version := debit_account.version + 1;
            credit_version := credit_account.version + 1;
        end if;
    elsif failure_detail is null then
        failure_detail := bank._rejection_facts(
            failure_code, debit_account_id, credit_account_id,
            debit_account.account_status, debit_account.currency, credit_account.currency,
            debit_account.balance_minor - debit_account.held_minor,
            debit_account.balance_minor - debit_account.held_minor + debit_account.overdraft_limit_minor,
            credit_account.balance_minor, amount
        );
    end if;

    posted_id := nextval('bank.transaction_id_seq');
    insert into bank.transaction (
        ledger_id, transaction_id, debit_account_id, credit_account_id, amount_minor, debit_version, credit_version,
        created_at, transaction_type, transaction_status, currency, failure_code, failure_detail,
        idempotency_key, description, external_id, metadata, original_transaction_id, counterpart_ledger_id, request
    ) values (
        ledger_id, posted_id, debit_account.account_id, credit_account.account_id, amount, debit_version, credit_version,
        posted_at, transaction_type,
        case when failure_code is null then 'success' else 'failure' end::bank.transaction_status,
        debit_account.currency, failure_code, failure_detail,
        idempotency_key, description, external_id, stored_metadata, original_transaction_id, counterpart_ledger_id, request
    ) on conflict do nothing;
    if not found then
        return bank._replay(
            posted_id, transaction_type, debit_account_id, credit_account_id, amount,
            idempotency_key, description, external_id, stored_metadata, ledger_id, original_transaction_id, null, request
        );
    end if;

    if failure_code is null and (released_minor > 0 or transaction_type = 'hold') then
        update bank.account as a
        set held_minor = a.held_minor - released_minor + case when transaction_type = 'hold' then amount else 0 end
        where a.ledger_id = _post_one.ledger_id and a.account_id = debit_account.account_id;
    end if;
    if debit_account.limited and failure_code is null and window_minor > 0 and transaction_type not in ('void', 'reversal') then
        perform bank._use_limits(
            debit_account_id, window_minor, case transaction_type when 'capture' then 0 else 1 end, posted_at, ledger_id
        );
    end if;
    if debit_version is not null then
        insert into bank.entry (
            ledger_id, account_id, version, transaction_id, amount_minor, balance_after_minor, created_at
        ) values
        (
            ledger_id, debit_account.account_id, debit_version, posted_id, -amount, debit_balance,
            greatest(posted_at, debit_account.last_entry_at)
        ),
        (
            ledger_id, credit_account.account_id, credit_version, posted_id, amount, credit_balance,
            greatest(posted_at, credit_account.last_entry_at)
        );

        update bank.account as a
        set balance_minor = case a.account_id when debit_account.account_id then debit_balance else credit_balance end,
            version = case a.account_id when debit_account.account_id then debit_version else credit_version end,
            last_entry_at = greatest(posted_at, a.last_entry_at)
        where a.ledger_id = _post_one.ledger_id
            and a.account_id in (debit_account.account_id, credit_account.account_id);

        -- What a striped account has after it is known only to who locks all of its stripes.
        if debit_account.stripes < 0 then
            debit_balance := null;
            debit_version := null;
        end if;
        if credit_account.stripes < 0 then
            credit_balance := null;
            credit_version := null;
        end if;
    end if;

    return row(
        posted_id, transaction_type,
        case when failure_code is null then 'success' else 'failure' end::bank.transaction_status,
        failure_code, failure_detail, amount, debit_account.currency,
        debit_account_id, credit_account_id, debit_balance, credit_balance, debit_version, credit_version,
        idempotency_key, description, external_id, coalesce(metadata, '{}'), posted_at, false, ledger_id,
        original_transaction_id, counterpart_ledger_id, null, null, null
    )::bank.posting;
end
$$;
