update infermq.webhooks set url = $2, events = $3, label = $4, disabled_ms = $5, disabled_why = $6 where id = $1
