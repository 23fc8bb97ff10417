update infermq.files set bytes = $2, stored_ms = $3, expires_ms = coalesce(created_ms + $4::bigint, expires_ms)
 where id = $1 and stored_ms is null and deleted_ms is null
returning *
