-- queued → running, for suspects that still wait, on one worker, unless the term $5 of shard $6 is over, or they
-- are paused or being cancelled.
with picked as materialized (
    delete from infermq.delayed d
     where job = any($1::uuid[]) and suspicion is not null and deadline_ms > $4
       and exists (select from infermq.leader where shard = $6 and term = $5)
       and not exists (select from infermq.pauses p
                        where (p.kind, p.name) in (('model', d.model), ('lane', d.lane), ('tenant', d.tenant), ('batch', d.batch::text)))
       and not exists (select from infermq.batches b where b.id = d.batch and b.cancel_ms is not null)
    returning *
), started as (
    insert into infermq.running (job, attempt, uncounted, deployment, dispatched_ms, deadline_ms, model, lane, tenant, tried,
        tokens, suspicion, ward)
    select job, attempt + 1, uncounted, $2, $4, deadline_ms, model, lane, tenant, tried, tokens, suspicion, $3 from picked
)
select j.id as job, p.attempt + 1 as attempt, j.tenant, j.lane, j.model, $2::text as deployment, j.endpoint, b.body,
       j.admitted_ms, j.deadline_ms, $4::bigint as dispatched_ms, j.traceparent
  from picked p
  cross join lateral (
        select * from infermq.jobs j where j.id = p.job and j.id between $7 and $8 offset 0) j
  cross join lateral (
        select b.body from infermq.bodies b where b.job = p.job and b.job between $7 and $8 offset 0) b
 order by j.id
