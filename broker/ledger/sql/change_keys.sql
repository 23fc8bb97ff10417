-- Called in the transaction of each change of tenants or keys.
update infermq.key_version set number = number + 1
