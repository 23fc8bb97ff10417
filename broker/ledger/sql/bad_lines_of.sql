select line from infermq.bad_lines where batch = $1 and line between $2 and $3
