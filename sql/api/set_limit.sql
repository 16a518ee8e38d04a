-- Sets a limit of an account, or takes it away. A posting that would pass it is rejected with a code of its own.
-- limit_kind, and what amount_max_minor means:
-- overdraft: how far below zero the balance may go; null: without limit (insufficient_funds);
-- minimum_balance: what is not held may not fall below it (balance_below_minimum);
-- maximum_balance: the balance may not rise above it (balance_above_maximum);
-- transaction: the highest amount of one debit (transaction_limit_exceeded);
-- day, week, month: the highest sum of debits in a day, a week from Monday, a month, all in UTC (day_amount_exceeded,
-- ...);
-- count_max: their highest number (day_count_exceeded, ...). What is held counts when it is authorised, and is not
-- given back when the hold is given up; what a capture takes beyond the hold's amount counts when it is captured. Both
-- null: no such limit.
-- reason, changed_by: for the account's history (bank.account_changes); changed_by null: the database's user.
-- Locks: the account, until the caller's transaction ends.
-- Errors, in this order: invalid_argument, account_not_found, account_striped, limit_passed_already.
-- Example: select * from bank.set_limit(2, 'day', amount_max_minor => 100000, count_max => 20);
create or replace function bank.set_limit(
    account_id bigint,
    limit_kind text,
    amount_max_minor numeric default null,
    count_max bigint default null,
    reason text default null,
    changed_by text default null,
    ledger_id bigint default 1
) returns bank.account_detail
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    windowed constant boolean := coalesce(limit_kind in ('day', 'week', 'month'), false);
    lowest constant bigint := case limit_kind when 'minimum_balance' then -9007199254740991 else 0 end;
    fault jsonb;
    account bank.account;
    before jsonb;
    after jsonb;
begin
    select jsonb_build_object('field', checked.field, 'reason', checked.reason)
    into fault
    from (
        values
        ('limit_kind', case
            when limit_kind is null or limit_kind <> all(array['overdraft'] || enum_range(null::bank.limit_kind)::text[])
                then 'is not overdraft, minimum_balance, maximum_balance, transaction, day, week or month'
        end),
        ('amount_max_minor', case
            when amount_max_minor between lowest and 9007199254740991 and amount_max_minor = trunc(amount_max_minor) then null
            when amount_max_minor is not null then format('is not a whole number from %s to 9007199254740991', lowest)
        end),
        ('count_max', case
            when count_max is not null and not windowed then 'is for day, week and month'
            when count_max < 0 then 'is less than 0'
        end)
    ) as checked (field, reason)
    where checked.reason is not null
    limit 1;
    fault := coalesce(fault, bank._change_fault(reason, changed_by));
    if fault is not null then
        perform bank._raise('invalid_argument', fault);
    end if;

    perform bank.account(account_id, ledger_id);
    select * into account from bank.account as a
    where a.ledger_id = set_limit.ledger_id and a.account_id = set_limit.account_id
    for no key update;
    if account.stripes <> 0 then
        perform bank._raise('account_striped', jsonb_build_object(
            'field', 'account_id', 'reason', 'is striped', 'account_id', account_id
        ));
    end if;
    account.held_minor := coalesce(bank._end_expired_holds(account_id, ledger_id), account.held_minor);
    if limit_kind = 'overdraft' and account.balance_minor - account.held_minor < -amount_max_minor
        or limit_kind = 'minimum_balance' and account.balance_minor - account.held_minor < amount_max_minor
        or limit_kind = 'maximum_balance' and account.balance_minor > amount_max_minor
    then
        perform bank._raise('limit_passed_already', jsonb_build_object(
            'field', 'amount_max_minor', 'reason', 'is passed by the balance', 'account_id', account_id,
            'balance_minor', account.balance_minor, 'held_minor', account.held_minor
        ));
    end if;

    if limit_kind = 'overdraft' then
        before := jsonb_build_object('overdraft_limit_minor', account.overdraft_limit_minor);
        after := jsonb_build_object('overdraft_limit_minor', amount_max_minor);
        update bank.account as a
        set overdraft_limit_minor = amount_max_minor
        where a.ledger_id = set_limit.ledger_id and a.account_id = set_limit.account_id;
    else
        select jsonb_build_object('amount_max_minor', l.amount_max_minor, 'count_max', l.count_max) into before
        from bank.account_limit as l
        where l.ledger_id = set_limit.ledger_id
            and l.account_id = set_limit.account_id
            and l.limit_kind = set_limit.limit_kind::bank.limit_kind;
        after := jsonb_build_object('amount_max_minor', amount_max_minor, 'count_max', count_max);
        if amount_max_minor is null and count_max is null then
            delete from bank.account_limit as l
            where l.ledger_id = set_limit.ledger_id
                and l.account_id = set_limit.account_id
                and l.limit_kind = set_limit.limit_kind::bank.limit_kind;
        else
            -- What is used of the window stays.
            update bank.account_limit as l
            set amount_max_minor = set_limit.amount_max_minor, count_max = set_limit.count_max
            where l.ledger_id = set_limit.ledger_id
                and l.account_id = set_limit.account_id
                and l.limit_kind = set_limit.limit_kind::bank.limit_kind;
            if not found then
                insert into bank.account_limit (ledger_id, account_id, limit_kind, amount_max_minor, count_max)
                values (ledger_id, account_id, limit_kind::bank.limit_kind, amount_max_minor, count_max);
            end if;
        end if;
        update bank.account as a
        set limited = exists (
                select from bank.account_limit as l
                where l.ledger_id = a.ledger_id and l.account_id = a.account_id
            )
        where a.ledger_id = set_limit.ledger_id and a.account_id = set_limit.account_id;
    end if;
    if coalesce(before, '{"amount_max_minor": null, "count_max": null}') <> after then
        perform bank._note_change(
            account_id, limit_kind || '_limit', coalesce(before, '{}'), after, changed_by, reason, ledger_id
        );
    end if;
    return bank.account(account_id, ledger_id);
end
$$;

comment on function bank.set_limit is 'Sets a limit of an account, or takes it away';
