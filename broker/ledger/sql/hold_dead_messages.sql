-- These messages, unless they were requeued or dropped meanwhile.
select id, stream, sequence, received_ms, subject, cause, reason, headers, payload from infermq.dead_letters
 where id = any($1::uuid[]) and requeued_ms is null
 order by id for update
