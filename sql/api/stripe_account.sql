-- Spreads a hot account over several rows, its stripes, so that postings to it need not wait for each other's commit.
-- Only an account without limit can be spread, because no posting looks at all of its rows. Balance, statement,
-- verification and freezing work on the whole, as for any account; a posting to it tells no balance or version after
-- for this side, which only a lock of all stripes could know. Each stripe has the exact range of balances for itself.
-- Settlement accounts have 16 stripes from the beginning.
-- stripes: 1 to 64; as many as connections post to the account at the same moment is a good number. It may be raised
-- and lowered at any time; 1 takes the spreading back.
-- Locks: the account, then all of its stripes: it waits for the postings in flight, and later ones wait for it.
-- Errors, in this order: invalid_argument, account_not_found, account_limited.
-- Example: select * from bank.stripe_account(1, 32);
create or replace function bank.stripe_account(
    account_id bigint,
    stripes bigint,
    ledger_id bigint default 1
) returns bank.account_detail
language plpgsql security definer set search_path = bank, pg_temp as $$
declare
    striped bank.account;
begin
    if (stripes between 1 and 64) is not true then
        perform bank._raise('invalid_argument', '{"field": "stripes", "reason": "is not from 1 to 64"}');
    end if;
    perform bank.account(account_id, ledger_id);
    select * into striped from bank.account as a
    where a.ledger_id = stripe_account.ledger_id and a.account_id = stripe_account.account_id
    for no key update;
    if striped.held_minor > 0 then
        striped.held_minor := coalesce(bank._end_expired_holds(account_id, ledger_id), striped.held_minor);
    end if;
    if striped.overdraft_limit_minor is not null or striped.held_minor <> 0 or striped.limited then
        perform bank._raise('account_limited', jsonb_build_object(
            'field', 'account_id', 'reason', 'has a limit or a hold', 'account_id', account_id
        ));
    end if;
    perform bank._set_stripes(account_id, stripes::integer, ledger_id);
    return bank.account(account_id, ledger_id);
end
$$;

comment on function bank.stripe_account is 'Spreads a hot account without limit over 1 to 64 rows';
