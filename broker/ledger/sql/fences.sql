-- The two numbers that a dispatch is fenced by.
select l.term, c.number as controls from infermq.leader l cross join infermq.control_version c where l.shard = $1
