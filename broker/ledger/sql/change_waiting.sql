-- New lane $5, priority $6 and deadline $7 (null: as it is) for those of these jobs of tenant $4 that wait, now or for their
-- time, unless the deadline is more than $8 after their admission. Their ids are from $2 to below $3 (bounds as in finish.sql;
-- `lateral` and ctid as in dispatch.sql; locks as in cancel_waiting.sql). A row that waits for its dispatch keeps its place
-- if nothing changes: a dispatch that began before would find the row at that place, and could not take it out.
with held as materialized (
    select j.*
      from (select job from unnest($1::uuid[]) as p(job) order by job) p
     cross join lateral (
           select j.id, j.model, j.lane, j.tenant, j.priority, j.deadline_ms from infermq.jobs j
            where j.id = p.job and j.id >= $2 and j.id < any (array[$3::uuid]) and j.tenant = $4 and j.state = 'open'
              and ($7::bigint is null or $7 <= j.admitted_ms + $8)
              for no key update) j
), waits as materialized (
    select h.id, w.at, (coalesce($5, h.lane), coalesce($6, h.priority), coalesce($7, h.deadline_ms))
                       is not distinct from (h.lane, h.priority, h.deadline_ms) as is_so_already
      from held h
     cross join lateral (
           select w.ctid as at from infermq.waiting w
            where w.model = h.model and w.lane = h.lane and w.tenant = h.tenant
              and w.rank = -h.priority and w.deadline_ms = h.deadline_ms
              and w.job = h.id
              for update) w
), moved as (
    update infermq.waiting
       set lane = coalesce($5, lane), rank = coalesce(-$6::smallint, rank), deadline_ms = coalesce($7, deadline_ms)
     where ctid = any(array(select at from waits where not is_so_already))
    returning job, false as is_delayed
), waits_for_a_time as materialized (
    select h.id, d.at
      from held h
     cross join lateral (
           select d.ctid as at from infermq.delayed d where d.job = h.id for update) d
), moved_for_a_time as (
    update infermq.delayed
       set lane = coalesce($5, lane), rank = coalesce(-$6::smallint, rank), deadline_ms = coalesce($7, deadline_ms)
     where ctid = any(array(select at from waits_for_a_time))
    returning job, true as is_delayed
), changed as materialized (
    select h.*, m.is_delayed
      from held h join (select * from moved union all select * from moved_for_a_time
                         union all select id, false from waits where is_so_already) m on m.job = h.id
)
update infermq.jobs j
   set lane = coalesce($5, j.lane), priority = coalesce($6, j.priority), deadline_ms = coalesce($7, j.deadline_ms)
  from changed c
 where j.id = c.id and j.id >= $2 and j.id < any (array[$3::uuid])
returning j.id as job, j.model, j.lane, j.tenant, -j.priority as rank, j.priority, j.deadline_ms, c.is_delayed,
          c.lane as lane_before, c.priority as priority_before, c.deadline_ms as deadline_before
