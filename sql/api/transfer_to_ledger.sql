-- Moves money to an account of another ledger, through the clearing accounts of both: a transaction in each ledger,
-- both or none, so that the books of either balance on their own. What one ledger owes the other is the balance of
-- its clearing account.
-- ledger_id: of the debited account. amount_minor: minor units.
-- idempotency_key: a retry with the same key and the same arguments returns the first outcome with replayed true.
-- description, external_id and metadata are yours.
-- Returns the transaction in the debited account's ledger; its original_transaction_id is the one in
-- counterpart_ledger_id, and the other way round. A rejection, in whichever ledger it was found, is a row with
-- transaction_status failure and a failure_code in the debited account's ledger.
-- Locks: the accounts of the ledger with the lower ledger_id first, in either in ascending account_id, until the
-- caller's transaction ends.
-- Errors raised, in this order: invalid_amount, account_not_found, invalid_argument, idempotency_key_reused,
-- sequence_behind.
-- Rejections recorded, in this order: same_ledger, those of bank.transfer in the debited account's ledger, then those
-- in the other.
-- Example: select * from bank.transfer_to_ledger(2, 2, 7, 1000, idempotency_key => 'to-branch-1');
create or replace function bank.transfer_to_ledger(
    debit_account_id bigint,
    credit_ledger_id bigint,
    credit_account_id bigint,
    amount_minor numeric,
    idempotency_key text default null,
    description text default null,
    external_id text default null,
    metadata jsonb default '{}',
    ledger_id bigint default 1
) returns bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    amount constant bigint := bank._amount(amount_minor);
    debit_account constant bank.account_detail := bank._named_account(debit_account_id, 'debit_account_id', ledger_id);
    credit_account constant bank.account_detail
    := bank._named_account(credit_account_id, 'credit_account_id', credit_ledger_id);
    request constant jsonb := jsonb_build_object(
        'credit_ledger_id', credit_ledger_id, 'credit_account_id', credit_account_id
    );
    clearing_account_id bigint;
    their_clearing_account_id bigint;
    side record;
    ours bank.posting;
    theirs bank.posting;
    prior_code text;
    prior_detail jsonb;
begin
    if ledger_id = credit_ledger_id then
        prior_code := 'same_ledger';
        prior_detail := jsonb_build_object('ledger_id', ledger_id);
    end if;
    -- The one of the lower ledger is used first, whichever way the money goes.
    perform bank._book_account('clearing', debit_account.currency, least(ledger_id, credit_ledger_id));
    clearing_account_id := bank._book_account('clearing', debit_account.currency, ledger_id);
    their_clearing_account_id := bank._book_account('clearing', debit_account.currency, credit_ledger_id);
    -- One order of locks for both directions. And what a rejection rests on is still locked when it is recorded, which
    -- the block below would let go of.
    for side in
        select s.*
        from (
            values
            (ledger_id, debit_account_id, clearing_account_id),
            (credit_ledger_id, credit_account_id, their_clearing_account_id)
        ) as s (in_ledger_id, account_id, book_account_id)
        where ledger_id <> credit_ledger_id
        order by s.in_ledger_id
    loop
        perform bank._lock_accounts(side.account_id, null, side.in_ledger_id);
        perform bank._lock_stripe(least(side.account_id, side.book_account_id), side.in_ledger_id);
        perform bank._lock_stripe(greatest(side.account_id, side.book_account_id), side.in_ledger_id);
    end loop;
    begin
        ours := bank._post_one(
            'cross_ledger', debit_account_id, clearing_account_id, amount,
            idempotency_key, description, external_id, metadata, ledger_id, null, prior_code, prior_detail, 0, credit_ledger_id,
            request
        );
        if ours.replayed or ours.failure_code is not null then
            return ours;
        end if;
        theirs := bank._post_one(
            'cross_ledger', their_clearing_account_id, credit_account_id, amount,
            null, description, external_id, metadata, credit_ledger_id, ours.transaction_id, null, null, 0, ledger_id
        );
        if theirs.failure_code is null then
            update bank.transaction as t
            set original_transaction_id = theirs.transaction_id
            where t.ledger_id = ours.ledger_id and t.transaction_id = ours.transaction_id;
            ours.original_transaction_id := theirs.transaction_id;
            return ours;
        end if;
        -- What was posted here is taken back with the block.
        raise exception using errcode = 'TLUND';
    exception
        when sqlstate 'TLUND' then null;
    end;
    return bank._post_one(
        'cross_ledger', debit_account_id, clearing_account_id, amount,
        idempotency_key, description, external_id, metadata, ledger_id, null,
        theirs.failure_code, theirs.failure_detail || jsonb_build_object('ledger_id', credit_ledger_id), 0, credit_ledger_id,
        request
    );
end
$$;

comment on function bank.transfer_to_ledger is 'Moves money to an account of another ledger, through clearing accounts';
