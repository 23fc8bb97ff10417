-- Up to $2 idempotency keys of jobs with ids below $1: their ids begin with their time.
delete from infermq.idempotency
 where ctid = any(array(select ctid from infermq.idempotency where job < $1 order by job limit $2 for update skip locked))
returning job
