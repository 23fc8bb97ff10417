insert into infermq.file_batches (batch, file, endpoint, "window", skips_bad, files_last_ms)
values ($1, $2, $3, $4, $5, $6)
