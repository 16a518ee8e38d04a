-- A transfer between two different accounts, each as likely as any other.
\set debit random(:first, :last)
\set credit :first + (:debit - :first + random(1, :last - :first)) % (:last - :first + 1)
\set amount random(1, 10000)
select * from bank.transfer(:debit, :credit, :amount);
