-- As batch.sql, without fetching the outcomes.
\set number random(1, :batches)
select count(posted.transaction_id)
from load.batch as b
cross join lateral bank.post_transfers(
    b.debit_account_ids, b.credit_account_ids, b.amounts_minor,
    array(select concat((select gen_random_uuid()), ':', i) from generate_series(1, :items) as i)
) as posted
where b.items = :items and b.number = :number;
