-- Up to $2 dead letters that came before $1, requeued or not.
delete from infermq.dead_letters
 where id = any(array(
       select id from infermq.dead_letters where received_ms < $1 order by received_ms limit $2 for update skip locked))
returning id
