-- queued → running, for those that still wait, in the order of the picks. Their ids are between $8 and $9: said apart, it
-- leaves all other days out of the plan.
with picked as (
    delete from infermq.waiting w
     using unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::uuid[], $6::text[]) with ordinality
           as p(model, lane, tenant, deadline_ms, job, deployment, place)
     where w.model = p.model and w.lane = p.lane and w.tenant = p.tenant and w.deadline_ms = p.deadline_ms
       and w.job = p.job
    returning w.job, w.attempt + 1 as attempt, w.uncounted, w.tried, p.deployment, p.place
), started as (
    insert into infermq.running (job, attempt, uncounted, deployment, dispatched_ms, tried)
    select job, attempt, uncounted, deployment, $7, tried from picked
)
select j.id as job, p.attempt, j.tenant, j.lane, j.model, p.deployment, j.endpoint, b.body, j.admitted_ms, j.deadline_ms,
       $7::bigint as dispatched_ms, j.traceparent
  from picked p
  join infermq.jobs j on j.id = p.job and j.id between $8 and $9
  join infermq.bodies b on b.job = p.job and b.job between $8 and $9
 order by p.place
