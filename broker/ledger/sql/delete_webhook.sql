delete from infermq.webhooks where id = $1
