-- The primary keys, unique indexes and checks of the bank's tables are there and valid. The other rules are made for
-- rows that have keys: of two rows with the same key a slice may read one. A check is told by the columns that it is
-- about, for its text may be written in another way by another version of PostgreSQL.
create or replace function bank._verify_constraints(only_ledger_id bigint) returns setof bank._violation
language sql stable set quote_all_identifiers = off as $$
    select
        'constraint_missing', only_ledger_id, null::bigint, null::bigint, null::bigint,
        jsonb_build_object('table', 'bank.' || missing.table_name, 'constraint', missing.rule)
    from (
        (
            values
            ('account', 'primary key (ledger_id, account_id)'),
            ('account', 'unique (ledger_id, currency) where settlement'),
            ('account', 'unique (ledger_id, currency) where liquidity'),
            ('account', 'unique (ledger_id, currency) where clearing'),
            ('account', 'unique (ledger_id, external_id) where (external_id IS NOT NULL)'),
            ('account', 'check (balance_minor, held_minor, overdraft_limit_minor)'),
            ('account_change', 'primary key (ledger_id, account_id, change_number)'),
            ('account_limit', 'primary key (ledger_id, account_id, limit_kind)'),
            ('account_limit', 'check (count_max)'),
            ('account_limit', 'check (amount_max_minor, count_max)'),
            ('api_key', 'primary key (ledger_id, api_key_id)'),
            ('api_key', 'check (name)'),
            ('api_key', 'check (key_digest)'),
            ('api_key', 'check (scopes)'),
            ('currency', 'primary key (currency)'),
            ('currency', 'check (currency)'),
            ('currency', 'check (exponent)'),
            ('entry', 'primary key (ledger_id, account_id, version)'),
            ('error', 'primary key (code)'),
            ('error', 'check (sqlstate)'),
            ('error', 'check (kind)'),
            ('hold', 'primary key (ledger_id, hold_id)'),
            ('hold', 'check (amount_minor)'),
            ('hold', 'check (captured_minor)'),
            ('hold', 'check (tolerance_minor)'),
            ('hold', 'check (ended_at, hold_status)'),
            ('hold', 'check (amount_minor, captured_minor, tolerance_minor)'),
            ('installation', 'primary key (only_row)'),
            ('installation', 'check (only_row)'),
            ('installed_version', 'primary key (installation_number)'),
            ('ledger', 'primary key (ledger_id)'),
            ('ledger', 'check (name)'),
            ('opening', 'primary key (ledger_id, idempotency_key)'),
            ('transaction', 'primary key (ledger_id, transaction_id)'),
            ('transaction', 'unique (ledger_id, idempotency_key) where (idempotency_key IS NOT NULL)'),
            (
                'transaction',
                'check (amount_minor, credit_version, debit_version, failure_code, transaction_status, transaction_type)'
            )
        )

        except

        select
            c.relname,
            case when i.indisprimary then 'primary key (' else 'unique (' end
            || (
                select string_agg(a.attname, ', ' order by k.position)
                from unnest(i.indkey) with ordinality as k (attnum, position)
                inner join pg_attribute as a on k.attnum = a.attnum and a.attrelid = i.indrelid
                where k.position <= i.indnkeyatts
            )
            || ')'
            || coalesce(' where ' || pg_get_expr(i.indpred, i.indrelid), '')
        from pg_index as i
        inner join pg_class as c on i.indrelid = c.oid
        where c.relnamespace = 'bank'::regnamespace
            and i.indisunique
            and i.indimmediate
            and i.indisvalid
            and i.indisready
            and i.indislive

        except

        select
            c.relname,
            'check ('
            || (
                select string_agg(a.attname, ', ' order by a.attname)
                from pg_attribute as a
                where a.attrelid = k.conrelid and a.attnum = any(k.conkey)
            )
            || ')'
        from pg_constraint as k
        inner join pg_class as c on k.conrelid = c.oid
        where c.relnamespace = 'bank'::regnamespace and k.contype = 'c' and k.convalidated
    ) as missing (table_name, rule)
$$;
