-- Up to $2 instructions that ended before $1.
delete from infermq.instructions
 where ctid = any(array(select ctid from infermq.instructions
                         where ended_ms < $1 order by id limit $2 for update skip locked))
returning id
