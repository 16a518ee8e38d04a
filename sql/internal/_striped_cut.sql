-- How many entries each row of a striped account has among the account's first entry_count ones, in the order of
-- created_at, then of the row's id: what a statement has before the page that it begins with.
-- row_ids, versions: the rows of the account, and the number of entries of each.
--
-- A search in sorted lists: the middle entry of the widest range that is left splits all ranges in two, and one half is
-- dropped. Each step halves about what is left, so that the cost grows with the logarithm of the history only.
create or replace function bank._striped_cut(
    row_ids bigint[],
    versions bigint[],
    entry_count bigint,
    ledger_id bigint
) returns bigint[]
language plpgsql stable as $$
declare
    row_count constant integer := cardinality(row_ids);
    lows bigint[] := array_fill(0::bigint, array[row_count]);
    highs bigint[] := versions;
    splits bigint[];
    split_count bigint;
    widest integer;
    pivot_at timestamptz;
    entry_at timestamptz;
    low bigint;
    high bigint;
    middle bigint;
begin
    loop
        widest := 1;
        for i in 2 .. row_count loop
            if highs[i] - lows[i] > highs[widest] - lows[widest] then
                widest := i;
            end if;
        end loop;
        exit when highs[widest] = lows[widest];

        splits := highs;
        splits[widest] := (lows[widest] + highs[widest] + 1) / 2;
        select e.created_at into pivot_at from bank.entry as e
        where e.ledger_id = _striped_cut.ledger_id and e.account_id = row_ids[widest] and e.version = splits[widest];
        split_count := splits[widest];
        for i in 1 .. row_count loop
            if i <> widest then
                -- The last entry of this row that is not after the pivot.
                low := lows[i];
                high := highs[i];
                while low < high loop
                    middle := (low + high + 1) / 2;
                    select e.created_at into entry_at from bank.entry as e
                    where e.ledger_id = _striped_cut.ledger_id and e.account_id = row_ids[i] and e.version = middle;
                    if entry_at < pivot_at or entry_at = pivot_at and row_ids[i] < row_ids[widest] then
                        low := middle;
                    else
                        high := middle - 1;
                    end if;
                end loop;
                splits[i] := low;
                split_count := split_count + low;
            end if;
        end loop;

        if split_count <= entry_count then
            lows := splits;
        else
            highs := splits;
            highs[widest] := splits[widest] - 1;
        end if;
    end loop;
    return lows;
end
$$;
