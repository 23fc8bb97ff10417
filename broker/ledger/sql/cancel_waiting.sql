-- queued → cancelled, for those of these jobs that wait, now or for their time. Their ids are from $3 to below $4 (bounds as in
-- finish.sql; `lateral` and ctid as in dispatch.sql). Whoever locks what waits of a job that is to end has locked the job
-- first, and both go by the order of the jobs. What was changed where it waits since this statement began is left alone.
with held as materialized (
    select j.*
      from (select job from unnest($1::uuid[]) as p(job) order by job) p
     cross join lateral (
           select j.id, j.model, j.lane, j.tenant, j.priority, j.deadline_ms from infermq.jobs j
            where j.id = p.job and j.id >= $3 and j.id < any (array[$4::uuid]) and j.state = 'open'
              for no key update) j
), waits as materialized (
    select w.at
      from held h
     cross join lateral (
           select w.ctid as at from infermq.waiting w
            where w.model = h.model and w.lane = h.lane and w.tenant = h.tenant
              and w.rank = -h.priority and w.deadline_ms = h.deadline_ms
              and w.job = h.id
              for update) w
), waits_no_more as (
    delete from infermq.waiting where ctid = any(array(select at from waits)) returning job, attempt
), waits_for_a_time as materialized (
    select d.at
      from held h
     cross join lateral (
           select d.ctid as at from infermq.delayed d where d.job = h.id for update) d
), waits_for_no_time as (
    delete from infermq.delayed where ctid = any(array(select at from waits_for_a_time)) returning job, attempt
), gone as materialized (
    select job, attempt from waits_no_more union all select job, attempt from waits_for_no_time
)
update infermq.jobs j
   set state = 'cancelled', attempts = g.attempt, settled_ms = $2
  from gone g
 where j.id = g.job and j.id >= $3 and j.id < any (array[$4::uuid])
returning j.id, j.model, j.lane, j.tenant, j.batch, j.custom_id, j.state, j.attempts
