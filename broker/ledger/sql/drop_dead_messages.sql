delete from infermq.dead_letters where id = any($1::uuid[]) and requeued_ms is null returning id
