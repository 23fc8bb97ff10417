-- Rows are locked in the order of their ids, as by whoever requeues them.
with held as materialized (
    select id from infermq.dead_letters where id = any($1::uuid[]) and requeued_ms is null order by id for update
)
delete from infermq.dead_letters d using held h where d.id = h.id returning d.id
