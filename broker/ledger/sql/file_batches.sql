-- The batches of a tenant that are made of files, the newest first: $2 is the last one of the page before, $3 a batch.
select b.*, f.file, f.endpoint, f."window", f.skips_bad, f.lines, f.bad, f.checked_ms, f.expanded_ms, f.failed_ms,
       f.model, f.files_last_ms, f.output_deleted_ms, f.errors_deleted_ms
  from infermq.file_batches f join infermq.batches b on b.id = f.batch
 where b.tenant = $1 and ($2::uuid is null or b.id < $2) and ($3::uuid is null or b.id = $3)
 order by b.id desc
 limit $4
