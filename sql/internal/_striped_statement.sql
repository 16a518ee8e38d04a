-- A page of the entries of a striped account: those of its own row and of its stripes in one order, newest first, with
-- the version and the balance that the account had after each as a whole.
-- A posting that commits while an earlier one is not yet seen may take its place in that order later, by milliseconds.
create or replace function bank._striped_statement(
    account_id bigint,
    before_version bigint,
    page_size bigint,
    ledger_id bigint
) returns setof bank.statement_line
language plpgsql stable as $$
declare
    row_ids bigint[];
    versions bigint[];
    entry_count bigint;
    balance_minor bigint;
begin
    select array_agg(a.account_id order by a.account_id), array_agg(a.version order by a.account_id), sum(a.version)
    into row_ids, versions, entry_count
    from bank.account as a
    where a.ledger_id = _striped_statement.ledger_id
        and (
            a.account_id = _striped_statement.account_id
            or a.account_id between bank._stripe_id(_striped_statement.account_id, 0)
            and bank._stripe_id(_striped_statement.account_id, 63)
        );
    if before_version <= entry_count then
        entry_count := before_version - 1;
        versions := bank._striped_cut(row_ids, versions, entry_count, ledger_id);
    end if;

    select coalesce(sum(e.balance_after_minor), 0) into balance_minor
    from unnest(row_ids, versions) as family (row_id, version)
    inner join bank.entry as e
        on e.ledger_id = _striped_statement.ledger_id and e.account_id = family.row_id and e.version = family.version;

    return query
    select
        _striped_statement.account_id,
        entry_count - line.newer_count,
        line.transaction_id,
        t.transaction_type,
        line.amount_minor,
        balance_minor - line.newer_minor,
        case
            when t.legs is null
                then bank._account_of(case when line.amount_minor < 0 then t.credit_account_id else t.debit_account_id end)
        end,
        t.description,
        t.external_id,
        line.created_at,
        _striped_statement.ledger_id
    from (
        select
            e.*,
            count(*) over newer - 1 as newer_count,
            (sum(e.amount_minor) over newer - e.amount_minor)::bigint as newer_minor
        from unnest(row_ids, versions) as family (row_id, version)
        cross join lateral (
            select x.*
            from bank.entry as x
            where x.ledger_id = _striped_statement.ledger_id
                and x.account_id = family.row_id and x.version <= family.version
            order by x.version desc
            limit page_size
        ) as e
        window newer as (order by e.created_at desc, e.account_id desc, e.version desc)
    ) as line
    inner join bank.transaction as t
        on t.ledger_id = _striped_statement.ledger_id and t.transaction_id = line.transaction_id
    where line.newer_count < page_size
    order by line.newer_count;
end
$$;
