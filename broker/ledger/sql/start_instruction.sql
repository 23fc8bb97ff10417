-- What was sent for it is complete.
update infermq.instructions set next_ms = $2 where id = $1 and cursor is null and ended_ms is null
