-- What bank._post does, one item after another: for accounts that have limits of their own, which its arrays do not
-- know. A group of which an item is not posted is taken back with the block that it is posted in; then the item's
-- rejection is recorded as it was found.
create or replace function bank._post_each(
    transaction_types bank.transaction_type[],
    debit_account_ids bigint[],
    credit_account_ids bigint[],
    amounts_minor bigint[],
    idempotency_keys text[],
    descriptions text[],
    external_ids text[],
    metadatas jsonb[],
    groups integer[],
    ledger_id bigint
) returns setof bank.posting
language plpgsql as $$
declare
    item_count constant integer := cardinality(amounts_minor);
    first_item integer := 1;
    last_item integer;
    stopped_by integer;
    rejected bank.posting;
    outcomes bank.posting[];
    outcome bank.posting;
begin
    while first_item <= item_count loop
        last_item := first_item;
        while last_item < item_count and groups[last_item + 1] = groups[first_item] loop
            last_item := last_item + 1;
        end loop;

        stopped_by := null;
        outcomes := '{}';
        begin
            for i in first_item .. last_item loop
                outcome := bank._post_or_explain(
                    transaction_types[i], debit_account_ids[i], credit_account_ids[i], amounts_minor[i],
                    idempotency_keys[i], descriptions[i], external_ids[i], metadatas[i], ledger_id, null
                );
                outcomes := outcomes || outcome;
                if outcome.failure_code is not null and groups[i] is not null then
                    stopped_by := i;
                    rejected := outcome;
                    if exists (
                        select from unnest(outcomes) as o
                        where o.idempotency_key = rejected.idempotency_key and o.transaction_id is not null and not o.replayed
                    ) then
                        rejected.failure_detail := rejected.failure_detail - 'transaction_id'; -- it is there no more
                    end if;
                    raise exception using errcode = 'TLUND';
                end if;
            end loop;
        exception
            when sqlstate 'TLUND' then null;
        end;

        for i in first_item .. last_item loop
            if stopped_by is null then
                outcome := outcomes[i - first_item + 1];
            elsif i <> stopped_by then
                outcome := bank._not_posted(
                    transaction_types[i], debit_account_ids[i], credit_account_ids[i], amounts_minor[i],
                    idempotency_keys[i], descriptions[i], external_ids[i], metadatas[i], ledger_id,
                    'batch_aborted', bank._aborted_facts(stopped_by)
                );
            elsif rejected.transaction_id is null or rejected.replayed then
                outcome := rejected;
            else
                outcome := bank._post_or_explain(
                    transaction_types[i], debit_account_ids[i], credit_account_ids[i], amounts_minor[i],
                    idempotency_keys[i], descriptions[i], external_ids[i], metadatas[i], ledger_id, rejected
                );
            end if;
            return next outcome;
        end loop;
        first_item := last_item + 1;
    end loop;
end
$$;
