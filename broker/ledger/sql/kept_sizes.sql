-- What was kept when $2 of its retries were complete: what they came to does not change any more.
select output_bytes, error_bytes from infermq.file_batches where batch = $1 and sized_retries = $2
