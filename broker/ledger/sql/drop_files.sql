delete from infermq.files where id = any($1::uuid[])
