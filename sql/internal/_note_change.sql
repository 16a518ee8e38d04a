-- Notes what was changed about an account. The caller holds the account's lock, so that numbers have no gaps.
-- changed_by: null stands for the database's own user.
create or replace function bank._note_change(
    account_id bigint,
    change_type text,
    before jsonb,
    after jsonb,
    changed_by text,
    reason text,
    ledger_id bigint
) returns void
language sql as $$
    insert into bank.account_change (
        ledger_id, account_id, change_number, changed_by, change_type, before, after, reason
    )
    select
        _note_change.ledger_id, _note_change.account_id, coalesce(max(c.change_number), 0) + 1,
        coalesce(_note_change.changed_by, session_user), _note_change.change_type,
        _note_change.before, _note_change.after, _note_change.reason
    from bank.account_change as c
    where c.ledger_id = _note_change.ledger_id and c.account_id = _note_change.account_id
$$;
