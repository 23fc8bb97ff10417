-- What jobs ask for. Their ids are between $2 and $3, which leaves all other days out of the plan (lateral as in
-- dispatch.sql).
select j.id, j.model, j.endpoint, b.body
  from unnest($1::uuid[]) as p(job)
  cross join lateral (
        select * from infermq.jobs j where j.id = p.job and j.id between $2 and $3 offset 0) j
  cross join lateral (
        select b.body from infermq.bodies b where b.job = p.job and b.job between $2 and $3 offset 0) b
