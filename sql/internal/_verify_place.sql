-- Where bank.verify_slice goes on when it has come to the end of a part in a ledger: at the next ledger, then at the
-- next part; null: nothing is left. only_ledger_id null: it goes through every ledger.
create or replace function bank._verify_place(part text, ledger_id bigint, only_ledger_id bigint) returns text
language plpgsql stable as $$
declare
    parts constant text[] := array['accounts', 'entries', 'transactions', 'openings', 'sequences'];
    next_part text := part;
    next_ledger_id bigint;
begin
    if only_ledger_id is null then
        next_ledger_id := bank._verify_ledger(part, ledger_id);
    end if;
    while next_ledger_id is null loop
        next_part := parts[array_position(parts, next_part) + 1];
        exit when next_part is null or next_part = 'sequences';
        next_ledger_id := coalesce(only_ledger_id, bank._verify_ledger(next_part, null));
    end loop;
    -- Sequences are of no ledger.
    return case when next_part is not null then concat_ws(':', next_part, next_ledger_id) end;
end
$$;
