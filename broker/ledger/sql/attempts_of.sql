-- Those that still run. Their ids are between $3 and $4, which leaves all other days out of the plan (lateral as in
-- dispatch.sql).
select j.id as job, r.attempt, j.tenant, j.lane, j.model, r.deployment, j.endpoint, b.body, j.admitted_ms, j.deadline_ms,
       r.dispatched_ms, j.traceparent
  from unnest($1::uuid[], $2::int[]) as p(job, attempt)
  cross join lateral (
        select * from infermq.running r where r.job = p.job and r.attempt = p.attempt offset 0) r
  cross join lateral (
        select * from infermq.jobs j where j.id = p.job and j.id between $3 and $4 offset 0) j
  cross join lateral (
        select b.body from infermq.bodies b where b.job = p.job and b.job between $3 and $4 offset 0) b
