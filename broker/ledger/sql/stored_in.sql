select store, bytes from infermq.files where id = $1
