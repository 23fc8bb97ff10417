-- The retry $1 of a batch that is made of a file is one of the same file, for whose bytes it has no use any more; $4: the model
-- that it asks instead.
insert into infermq.file_batches (batch, file, endpoint, "window", skips_bad, checked_ms, expanded_ms, model, files_last_ms)
select $1, f.file, f.endpoint, coalesce($3, f."window"), f.skips_bad, $5, $5, coalesce($4, f.model), f.files_last_ms
  from infermq.file_batches f where f.batch = $2
