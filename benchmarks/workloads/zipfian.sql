-- Few accounts are in many transfers: the n-th most popular one as often as n to the power of -1.1.
\set debit random_zipfian(:first, :last, 1.1)
\set other random_zipfian(:first, :last, 1.1)
\set credit :first + (:other - :first + case when :other = :debit then 1 else 0 end) % (:last - :first + 1)
\set amount random(1, 10000)
select * from bank.transfer(:debit, :credit, :amount);
