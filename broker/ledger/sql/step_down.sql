update infermq.leader set until = clock_timestamp() where holder = $1 and term = $2
