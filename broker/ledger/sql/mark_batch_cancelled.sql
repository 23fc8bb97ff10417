-- Marks what runs of a cancelled batch and is not marked yet. What runs is few; rows are locked in the order of the jobs.
with theirs as materialized (
    select r.job from infermq.running r
     where r.cancel_ms is null
       and exists (select from infermq.jobs j where j.id = r.job and j.batch = $1)
     order by r.job
), held as materialized (
    select r.job from theirs t
     cross join lateral (
           select r.job from infermq.running r where r.job = t.job and r.cancel_ms is null for update) r
)
update infermq.running r set cancel_ms = $2
  from held h where r.job = h.job
returning r.job, r.attempt, r.deployment, r.cancel_ms
