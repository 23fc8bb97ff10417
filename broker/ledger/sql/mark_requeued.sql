update infermq.dead_letters set requeued_ms = $2 where id = any($1::uuid[]) and requeued_ms is null
