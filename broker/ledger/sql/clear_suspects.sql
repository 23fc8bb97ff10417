-- Their time has come: `move_due` moves them into the backlog. Rows are locked in the order of their jobs, as everywhere.
with held as materialized (
    select job from infermq.delayed
     where suspicion is not null and (suspicion->>'group')::uuid = any($1::uuid[])
     order by job for update
)
update infermq.delayed d set suspicion = null, not_before_ms = 0 from held h where d.job = h.job
