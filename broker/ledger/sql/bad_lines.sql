select line, fault from infermq.bad_lines where batch = $1 and line > $2 order by line limit $3
