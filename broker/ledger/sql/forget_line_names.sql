delete from infermq.line_names where batch = $1
