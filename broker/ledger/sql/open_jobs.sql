-- The ids are between $2 and $3, which leaves all other days out of the plan.
select j.id, case when r.job is null then 'queued' else 'running' end as state,
       coalesce(r.attempt, w.attempt, d.attempt) as attempt, coalesce(r.uncounted, w.uncounted, d.uncounted) as uncounted,
       j.max_attempts, j.deadline_ms, j.model, coalesce(r.tried, w.tried, d.tried) as tried,
       coalesce(r.suspicion, d.suspicion) as suspicion
  from infermq.jobs j
  left join infermq.running r on r.job = j.id
  left join infermq.waiting w on w.model = j.model and w.lane = j.lane and w.tenant = j.tenant
       and w.rank = -j.priority and w.deadline_ms = j.deadline_ms and w.job = j.id
  left join infermq.delayed d on d.job = j.id
 where j.id = any($1::uuid[]) and j.id between $2 and $3 and j.state = 'open' and coalesce(r.job, w.job, d.job) is not null
