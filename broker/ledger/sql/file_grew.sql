update infermq.files set bytes = greatest(bytes, $2)
 where id = $1 and stored_ms is null and deleted_ms is null
