-- A piece of a message, from the offset $2 on.
select headers, substring(payload from $2 + 1 for $3) as piece from infermq.dead_letters where id = $1
