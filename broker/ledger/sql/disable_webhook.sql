update infermq.webhooks set disabled_ms = $2, disabled_why = $3 where id = $1 and disabled_ms is null returning id
