select data from infermq.blobs where file = $1 and number = $2
