-- Whoever changes tenants or keys waits from here to the end of the transaction.
select from infermq.key_version for update
