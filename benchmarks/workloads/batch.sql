-- One of the prepared batches of :items transfers, each transfer with a key: a UUID of the
-- call and its number. All outcomes are fetched.
\set number random(1, :batches)
select posted.*
from load.batch as b
cross join lateral bank.post_transfers(
    b.debit_account_ids, b.credit_account_ids, b.amounts_minor,
    array(select concat((select gen_random_uuid()), ':', i) from generate_series(1, :items) as i)
) as posted
where b.items = :items and b.number = :number;
