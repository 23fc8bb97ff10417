select * from infermq.webhooks where id = $1 and tenant = $2 for update
