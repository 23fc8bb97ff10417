select * from infermq.batches where id = $1 and tenant = $2 for no key update
