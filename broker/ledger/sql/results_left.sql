select exists (select from infermq.results where batch = $1 and ordinal > $2)
