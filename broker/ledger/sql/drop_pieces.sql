delete from infermq.blobs where file = any($1::uuid[])
