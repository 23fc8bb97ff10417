select output_bytes, error_bytes from infermq.file_batches where batch = $1
