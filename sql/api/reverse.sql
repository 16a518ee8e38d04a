-- Takes a transaction back, in full or in part (a refund): the money goes from where it went to where it came from.
-- Never more than is left of it after earlier reversals, also when two race: each writes into the original what it has
-- taken back. An exchange or a compound transaction is reversed as a whole.
-- transaction_id: what is taken back. amount_minor: minor units; null: all that is left. force: when the account that
-- the money went to has not enough, let it overdraw: its overdraft limit is raised to what is needed, which is a
-- change of the account like any other (bank.account_changes), by changed_by; null: the database's user. A retry is
-- not compared in changed_by.
-- idempotency_key: a retry with the same key and the same arguments returns the first outcome with replayed true.
-- description, external_id and metadata are yours.
-- Returns the recorded transaction; a rejection is a row with transaction_status failure and a failure_code.
-- Locks: the transaction, then its accounts in ascending account_id, until the caller's transaction ends.
-- Errors raised, in this order: transaction_not_found, not_reversible, invalid_amount, invalid_argument,
-- idempotency_key_reused, sequence_behind.
-- Rejections recorded, in this order: reversal_exceeds_original, account_closed, account_frozen, insufficient_funds,
-- balance_overflow, balance_below_minimum, balance_above_maximum.
-- Example: select * from bank.reverse(1, 500, idempotency_key => 'refund-1');
create or replace function bank.reverse(
    transaction_id bigint,
    amount_minor numeric default null,
    force boolean default false,
    changed_by text default null,
    idempotency_key text default null,
    description text default null,
    external_id text default null,
    metadata jsonb default '{}',
    ledger_id bigint default 1
) returns bank.posting
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    original bank.posting;
    reversed_before_minor bigint;
    left_minor bigint;
    asked_minor bigint;
    request jsonb;
    fault jsonb;
    prior_code text;
    prior_detail jsonb;
    account_ids bigint[];
    amounts_minor bigint[];
    forced boolean;
    posted bank.posting;
begin
    perform from bank.transaction as t
    where t.ledger_id = reverse.ledger_id and t.transaction_id = reverse.transaction_id
    for no key update;
    original := bank.get_transaction(transaction_id, ledger_id);
    if original.transaction_status = 'failure'
        or original.transaction_type in ('hold', 'void', 'reversal', 'cross_ledger')
    then
        perform bank._raise('not_reversible', jsonb_build_object(
            'field', 'transaction_id',
            'reason', format('is a %s, %s', original.transaction_type, original.transaction_status),
            'transaction_id', transaction_id
        ));
    end if;
    asked_minor := case when amount_minor is not null then bank._amount(amount_minor) end;
    -- Legs are taken back together, so one reversal leaves nothing.
    select
        case
            when original.legs is null then coalesce(sum(t.amount_minor), 0)
            when count(*) > 0 then original.amount_minor
            else 0
        end
    into reversed_before_minor
    from bank.transaction as t
    where t.ledger_id = reverse.ledger_id
        and t.original_transaction_id = reverse.transaction_id
        and t.transaction_type = 'reversal'
        and t.transaction_status = 'success';
    left_minor := original.amount_minor - reversed_before_minor;
    amount_minor := coalesce(asked_minor, nullif(left_minor, 0), original.amount_minor);
    fault := bank._change_fault(null, changed_by);
    if fault is not null then
        perform bank._raise('invalid_argument', fault);
    end if;
    if amount_minor > left_minor or original.legs is not null and amount_minor <> original.amount_minor then
        prior_code := 'reversal_exceeds_original';
    end if;

    request := jsonb_build_object('amount_minor', asked_minor, 'force', coalesce(force, false));
    prior_detail := jsonb_build_object('transaction_id', transaction_id, 'left_minor', left_minor);
    if original.legs is null then
        account_ids := array[original.credit_account_id, original.debit_account_id];
        amounts_minor := array[-amount_minor, amount_minor];
    else
        select array_agg(leg.account_id order by leg.n), array_agg(-leg.amount_minor order by leg.n)
        into account_ids, amounts_minor
        from rows from (jsonb_to_recordset(original.legs) as (account_id bigint, amount_minor bigint))
            with ordinality as leg (account_id, amount_minor, n);
    end if;

    if force and prior_code is null then
        -- Before the block, which lets go of its locks when it is taken back: what a rejection rests on is still locked
        -- when it is recorded.
        perform from bank.account as a
        where a.ledger_id = reverse.ledger_id and a.account_id = any(account_ids) and a.stripes = 0
        order by a.account_id
        for no key update;
    end if;
    foreach forced in array array[coalesce(force, false) and prior_code is null, false] loop
        begin
            if forced then
                perform bank._allow_overdraft(net.account_id, net.debited_minor, changed_by, ledger_id)
                from (
                    select leg.id as account_id, -sum(leg.amount)::bigint as debited_minor
                    from unnest(account_ids, amounts_minor) as leg (id, amount)
                    group by leg.id
                    having sum(leg.amount) < 0
                ) as net;
            end if;
            if original.legs is null then
                posted := bank._post_one(
                    'reversal', original.credit_account_id, original.debit_account_id, amount_minor,
                    idempotency_key, description, external_id, metadata, ledger_id, transaction_id,
                    prior_code, prior_detail, request => request
                );
            else
                posted := bank._post_legs(
                    'reversal', account_ids, amounts_minor, null,
                    idempotency_key, description, external_id, metadata, ledger_id, transaction_id,
                    prior_code, prior_detail, request => request
                );
            end if;
            if posted.failure_code is null and not posted.replayed then
                update bank.transaction as t
                set reversed_minor = reversed_before_minor + reverse.amount_minor
                where t.ledger_id = reverse.ledger_id and t.transaction_id = reverse.transaction_id;
            end if;
            if not forced or posted.failure_code is null and not posted.replayed then
                return posted;
            end if;
            raise exception using errcode = 'TLUND';
        exception
            when sqlstate 'TLUND' then
                -- Not posted after all: the accounts keep their limits, and the reason is recorded as it was found.
                prior_code := posted.failure_code;
                prior_detail := posted.failure_detail;
        end;
    end loop;
end
$$;

comment on function bank.reverse is 'Takes a transaction back, in full or in part';
