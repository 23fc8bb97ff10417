select store, bytes from infermq.files where id = $1 and dropped_ms is null
