update infermq.files set bytes = $2, stored_ms = $3 where id = $1 and stored_ms is null and deleted_ms is null returning *
