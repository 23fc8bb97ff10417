-- Whoever changes what may start waits from here to the end of the transaction.
select from infermq.control_version for share
