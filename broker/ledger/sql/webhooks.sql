select * from infermq.webhooks where tenant = $1 order by id
