select infermq.add_day($1, $2, $3)
