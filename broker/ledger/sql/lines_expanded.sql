update infermq.file_batches set expanded_ms = $2 where batch = $1 and expanded_ms is null
