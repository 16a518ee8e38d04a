-- Stripes: the balance of a hot account is spread over several rows, so that postings need not wait for each other.
-- depends: 0002.currencies

set local role bank_owner;

alter table bank.account add column stripes smallint not null default 0;

comment on column bank.account.stripes is
'0: postings change this row; n > 0: they change one of the n stripes of the account. In the row of a stripe '
'itself -1: it is posted to, -2: not any more';

-- Settlement accounts are in every credit and debit, so they have stripes from the beginning (bank._set_stripes says
-- how a stripe's account_id is made).
insert into bank.account (
    ledger_id, account_id, stripes, holder_name, currency, account_type, account_status, overdraft_limit_minor
)
select
    a.ledger_id,
    4611686018427387904 + 64 * a.account_id + n as account_id,
    -1 as stripes,
    a.holder_name,
    a.currency,
    a.account_type,
    a.account_status,
    null as overdraft_limit_minor
from bank.account as a
cross join generate_series(0, 15) as n
where a.settlement;

update bank.account set stripes = 16
where settlement;
