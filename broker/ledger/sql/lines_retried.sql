update infermq.file_batches set lines = lines + $2 where batch = $1
