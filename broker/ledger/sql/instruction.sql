select * from infermq.instructions where id = $1 and tenant = $2
