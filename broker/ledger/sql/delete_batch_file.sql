-- Let one of the two files that a batch came to be read no more; $3: its output. None: the tenant has no such batch, or it runs.
update infermq.file_batches f
   set output_deleted_ms = case when $3 then $4 else output_deleted_ms end,
       errors_deleted_ms = case when $3 then errors_deleted_ms else $4 end
  from infermq.batches b
 where f.batch = $1 and b.id = f.batch and b.tenant = $2 and b.completed_ms is not null
returning f.batch
