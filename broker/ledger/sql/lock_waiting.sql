-- What waits of these jobs, now or for its time, in the order of the jobs. Their ids are between $2 and $3.
with place as materialized (
    select id, model, lane, tenant, priority, deadline_ms from infermq.jobs
     where id = any($1::uuid[]) and id between $2 and $3
     order by id
), waits as materialized (
    select w.job from place p
     cross join lateral (
           select w.job from infermq.waiting w
            where w.model = p.model and w.lane = p.lane and w.tenant = p.tenant
              and w.rank = -p.priority and w.deadline_ms = p.deadline_ms
              and w.job = p.id
              for update) w
), waits_for_a_time as materialized (
    select job from infermq.delayed where job = any($1::uuid[]) order by job for update
)
select job from waits union all select job from waits_for_a_time
