-- Jobs that ended by exactly these attempts: what a repeated group has settled before. Their ids are between $4 and $5
-- (lateral as in dispatch.sql).
select j.id, j.model, j.lane, j.tenant, j.batch, j.custom_id, j.state, j.attempts
  from unnest($1::uuid[], $2::int[], $3::text[]) as v(job, attempt, state)
 cross join lateral (
       select * from infermq.jobs j
        where j.id = v.job and j.attempts = v.attempt and j.state = v.state and j.id between $4 and $5 offset 0) j
