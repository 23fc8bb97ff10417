-- Marks what runs of these jobs of a tenant to be cancelled, unless it is so already (`is_new` says which). Rows are locked in
-- the order of the jobs.
with held as materialized (
    select job, cancel_ms from infermq.running where job = any($1::uuid[]) and tenant = $2 order by job for update
)
update infermq.running r set cancel_ms = coalesce(r.cancel_ms, $3)
  from held h where r.job = h.job
returning r.job, r.attempt, r.deployment, r.cancel_ms, h.cancel_ms is null as is_new
