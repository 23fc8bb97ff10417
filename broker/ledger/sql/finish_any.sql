-- An open job → its end, wherever it stands: by a success of any attempt, by what is said of no attempt, else by a late
-- report of the last one. Its executions are charged apart. The ids are from $6 to below $7, which leaves all other days
-- out of the plan (bounds as in finish.sql; `lateral` and ctid as in dispatch.sql). Only open jobs have rows to find.
with verdict as materialized (
    select * from unnest($1::uuid[], $2::int[], $3::text[], $4::jsonb[]) as v(job, attempt, state, failure)
), runs as materialized (
    select v.*, r.at, r.last, r.tokens
      from verdict v
     cross join lateral (
           select r.ctid as at, r.attempt as last, r.tokens from infermq.running r
            where r.job = v.job and (v.attempt is null or v.state = 'succeeded' or r.attempt = v.attempt)
              for update) r
), runs_no_more as (
    delete from infermq.running where ctid = any(array(select at from runs))
), place as materialized (
    select v.*, j.model, j.lane, j.tenant, j.priority, j.deadline_ms
      from verdict v
     cross join lateral (
           select * from infermq.jobs j where j.id = v.job and j.id >= $6 and j.id < any (array[$7::uuid]) offset 0) j
     where v.job not in (select job from runs)
), waits as materialized (
    select p.job, p.attempt, p.state, p.failure, w.at, w.last, w.tokens
      from place p
     cross join lateral (
           select w.ctid as at, w.attempt as last, w.tokens from infermq.waiting w
            where w.model = p.model and w.lane = p.lane and w.tenant = p.tenant
              and w.rank = -p.priority and w.deadline_ms = p.deadline_ms
              and w.job = p.job and (p.attempt is null or p.state = 'succeeded' or w.attempt = p.attempt)
              for update) w
), waits_no_more as (
    delete from infermq.waiting where ctid = any(array(select at from waits))
), waits_for_a_time as materialized (
    select v.*, d.at, d.last, d.tokens
      from verdict v
     cross join lateral (
           select d.ctid as at, d.attempt as last, d.tokens from infermq.delayed d
            where d.job = v.job and (v.attempt is null or v.state = 'succeeded' or d.attempt = v.attempt)
              for update) d
), waits_for_no_time as (
    delete from infermq.delayed where ctid = any(array(select at from waits_for_a_time))
), gone as materialized (
    select * from runs union all select * from waits union all select * from waits_for_a_time
)
update infermq.jobs j
   set state = g.state, attempts = coalesce(g.attempt, g.last), settled_ms = $5, failure = g.failure
  from gone g
 where j.id = g.job and j.id >= $6 and j.id < any (array[$7::uuid])
returning j.id, j.model, j.lane, j.tenant, j.batch, j.custom_id, j.state, j.attempts, g.tokens
