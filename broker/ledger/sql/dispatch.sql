-- queued → running, for those that still wait, in the order of the picks (but locked in that of the jobs, as settlement
-- locks what waits), unless the term $10 of shard $11 is over,
-- or the controls have changed since $12. They are held meanwhile: whoever changes them waits for the starts that were
-- chosen before, so that nothing starts once the change is made. The ids are between $8 and $9: said apart, it leaves all
-- other days out of the plan.
--
-- Each `lateral` keeps a lookup by its key, and rows go by their ctid: in a plain join, the planner takes a backlog that
-- was empty when it was last analyzed for one row, and runs through all picks for each of its rows.
with picked as materialized (
    select w.*, p.model, p.lane, p.tenant, p.deadline_ms, p.deployment, p.place
      from (select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::uuid[], $6::text[], $13::smallint[])
             with ordinality as p(model, lane, tenant, deadline_ms, job, deployment, rank, place)
             order by job) p
     cross join lateral (
           select w.ctid as at, w.job, w.attempt + 1 as attempt, w.uncounted, w.tried, w.tokens from infermq.waiting w
            where w.model = p.model and w.lane = p.lane and w.tenant = p.tenant
              and w.rank = p.rank and w.deadline_ms = p.deadline_ms
              and w.job = p.job
              for update) w
     where exists (select from infermq.leader where shard = $11 and term = $10)
       and exists (select from infermq.control_version where number = $12 for share)
), gone as (
    delete from infermq.waiting where ctid = any(array(select at from picked))
), started as (
    insert into infermq.running (job, attempt, uncounted, deployment, dispatched_ms, deadline_ms, model, lane, tenant, tried,
        tokens)
    select job, attempt, uncounted, deployment, $7, deadline_ms, model, lane, tenant, tried, tokens from picked
)
select j.id as job, p.attempt, j.tenant, j.lane, j.model, p.deployment, j.endpoint, b.body, j.admitted_ms, j.deadline_ms,
       $7::bigint as dispatched_ms, j.traceparent
  from picked p
  cross join lateral (
        select * from infermq.jobs j where j.id = p.job and j.id between $8 and $9 offset 0) j
  cross join lateral (
        select b.body from infermq.bodies b where b.job = p.job and b.job between $8 and $9 offset 0) b
 order by p.place
