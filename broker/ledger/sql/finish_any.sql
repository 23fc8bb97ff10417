-- An open job → its end, wherever it stands: by a success of any attempt, by what is said of no attempt, else by a late
-- report of the last one. Its executions are charged apart. The ids are between $6 and $7, which leaves all other days out
-- of the plan.
with verdict as (
    select * from unnest($1::uuid[], $2::int[], $3::text[], $4::jsonb[]) as v(job, attempt, state, failure)
), was_running as (
    delete from infermq.running r using verdict v
     where r.job = v.job and (v.attempt is null or v.state = 'succeeded' or r.attempt = v.attempt)
    returning v.*, coalesce(v.attempt, r.attempt) as ended_by, r.tokens
), was_waiting as (
    delete from infermq.waiting w using verdict v, infermq.jobs j
     where j.id = v.job and j.id between $6 and $7 and w.model = j.model and w.lane = j.lane and w.tenant = j.tenant
       and w.deadline_ms = j.deadline_ms and w.job = j.id
       and (v.attempt is null or v.state = 'succeeded' or w.attempt = v.attempt)
    returning v.*, coalesce(v.attempt, w.attempt) as ended_by, w.tokens
), was_delayed as (
    delete from infermq.delayed d using verdict v
     where d.job = v.job and (v.attempt is null or v.state = 'succeeded' or d.attempt = v.attempt)
    returning v.*, coalesce(v.attempt, d.attempt) as ended_by, d.tokens
), gone as (
    select * from was_running union all select * from was_waiting union all select * from was_delayed
)
update infermq.jobs j
   set state = g.state, attempts = g.ended_by, settled_ms = $5, failure = g.failure
  from gone g
 where j.id = g.job and j.state = 'open' and j.id between $6 and $7
returning j.id, j.model, j.lane, j.tenant, j.batch, j.custom_id, j.state, j.attempts, g.tokens
