-- These jobs of the tenant leave the dead letters, if they are there, in the order of their ids: two who requeue the same jobs
-- never wait for each other, and each job is requeued once.
with held as materialized (
    select job from infermq.failures
     where job = any($1::uuid[]) and tenant = $3 and state = 'dead' and dropped_ms is null
     order by job for update
)
update infermq.failures f set dropped_ms = $2 from held h where f.job = h.job returning f.job
