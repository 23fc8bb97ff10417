select * from infermq.files
 where id = $1 and tenant = $2 and stored_ms is not null and deleted_ms is null and coalesce(expires_ms > $3, true)
