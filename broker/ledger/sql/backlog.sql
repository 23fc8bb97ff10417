-- Job ids begin with their time, so the least of them is about the oldest.
select model, lane, count(*) as waiting, min(job::text)::uuid as oldest
  from (select model, lane, job from infermq.waiting union all select model, lane, job from infermq.delayed) w
 group by model, lane
