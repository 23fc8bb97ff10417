-- Completes batches that were cancelled before $2, of whose jobs all have ended that came here. Their rows are locked in the
-- order of their ids, as in count_batches.sql.
with held as materialized (
    select id from infermq.batches
     where cancel_ms < $2 and completed_ms is null and admitted <= succeeded + failed + expired + cancelled + dead
     order by id
       for no key update
)
update infermq.batches b set completed_ms = $1
  from held h where b.id = h.id
returning b.id
