update infermq.file_batches f set output_bytes = $2, error_bytes = $3, sized_retries = $4
  from infermq.batches b
 where f.batch = $1 and b.id = f.batch and b.completed_ms is not null
