-- The same without keys.
\set number random(1, :batches)
select posted.*
from load.batch as b
cross join lateral bank.post_transfers(b.debit_account_ids, b.credit_account_ids, b.amounts_minor) as posted
where b.items = :items and b.number = :number;
