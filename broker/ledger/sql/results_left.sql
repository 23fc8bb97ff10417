select exists (select from infermq.results where batch = $1 and (xid, job) > ($2::text::xid8, $3))
