insert into infermq.file_batches (batch, file, endpoint, "window", skips_bad) values ($1, $2, $3, $4, $5)
