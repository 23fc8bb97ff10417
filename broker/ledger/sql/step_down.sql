update infermq.leader set until = clock_timestamp() where shard = $3 and holder = $1 and term = $2
