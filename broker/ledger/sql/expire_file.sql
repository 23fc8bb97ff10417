update infermq.files set expires_ms = created_ms + $3::bigint
 where id = $1 and tenant = $2 and stored_ms is not null and deleted_ms is null
returning *
