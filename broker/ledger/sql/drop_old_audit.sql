-- Up to $2 entries with ids below $1: their ids begin with their time.
delete from infermq.audit
 where id = any(array(select id from infermq.audit where id < $1 order by id limit $2 for update skip locked))
returning id
