-- The jobs that have just ended otherwise than succeeded. Their ids are between $2 and $3, which leaves all other days out of
-- the plan (lateral as in dispatch.sql).
insert into infermq.failures (job, tenant, model, batch, state, kind, ended_ms)
select j.id, j.tenant, j.model, j.batch, j.state, infermq.failure_kind(j.state, j.failure), j.settled_ms
  from unnest($1::uuid[]) as ended(job)
 cross join lateral (
       select * from infermq.jobs j where j.id = ended.job and j.id between $2 and $3 offset 0) j
on conflict (job) do nothing
