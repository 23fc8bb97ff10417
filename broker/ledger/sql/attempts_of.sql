-- Those that still run. Their ids are between $3 and $4, which leaves all other days out of the plan.
select j.id as job, r.attempt, j.tenant, j.lane, j.model, r.deployment, j.endpoint, b.body, j.admitted_ms, j.deadline_ms,
       r.dispatched_ms, j.traceparent
  from unnest($1::uuid[], $2::int[]) as p(job, attempt)
  join infermq.running r on r.job = p.job and r.attempt = p.attempt
  join infermq.jobs j on j.id = p.job and j.id between $3 and $4
  join infermq.bodies b on b.job = p.job and b.job between $3 and $4
