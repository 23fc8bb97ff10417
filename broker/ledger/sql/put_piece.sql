insert into infermq.blobs (file, number, data) values ($1, $2, $3) on conflict do nothing
