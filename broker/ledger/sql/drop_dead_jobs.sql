-- They leave the dead letters, and stay in the ledger. Rows are locked in the order of their ids, as by whoever requeues them.
with held as materialized (
    select job from infermq.failures
     where job = any($1::uuid[]) and state = 'dead' and dropped_ms is null
     order by job for update
)
update infermq.failures f set dropped_ms = $2 from held h where f.job = h.job returning f.job
