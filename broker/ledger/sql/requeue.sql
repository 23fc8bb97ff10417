-- running → queued, for those that run this very attempt: into the backlog, or among the delayed, if their time is later
-- than $6; a suspected job's never comes. The ids are between $8 and $9, which leaves all other days out of the plan. Lists
-- of deployments come as JSON, since arrays of unequal lengths do not nest; `lateral` and ctid as in dispatch.sql.
with verdict as (
    select job, attempt, not_before_ms, uncounted, suspicion,
           (select array_agg(name) from jsonb_array_elements_text(tried) as t(name)) as tried
      from unnest($1::uuid[], $2::int[], $3::bigint[], $4::int[], $5::jsonb[], $7::jsonb[])
           as v(job, attempt, not_before_ms, uncounted, tried, suspicion)
), gone as materialized (
    select v.job, v.attempt, v.not_before_ms, r.uncounted + v.uncounted as uncounted, v.tried, r.tokens,
           v.suspicion, r.at
      from verdict v
     cross join lateral (
           select r.ctid as at, r.uncounted, r.tokens from infermq.running r
            where r.job = v.job and r.attempt = v.attempt
              for update) r
), ended as (
    delete from infermq.running where ctid = any(array(select at from gone))
), back as materialized (
    select j.model, j.lane, j.tenant, -j.priority as rank, j.deadline_ms, j.batch, g.*,
           case when g.not_before_ms > $6 then g.not_before_ms end as due_ms
      from gone g
     cross join lateral (
           select * from infermq.jobs j where j.id = g.job and j.id between $8 and $9 offset 0) j
), waits as (
    insert into infermq.waiting (model, lane, tenant, rank, deadline_ms, job, attempt, uncounted, tried, batch, tokens)
    select model, lane, tenant, rank, deadline_ms, job, attempt, uncounted, tried, batch, tokens from back where due_ms is null
), waits_for_a_time as (
    insert into infermq.delayed (job, not_before_ms, model, lane, tenant, rank, deadline_ms, attempt, uncounted, tried,
        batch, tokens, suspicion)
    select job, due_ms, model, lane, tenant, rank, deadline_ms, attempt, uncounted, tried, batch, tokens, suspicion
      from back where due_ms is not null
)
select model, lane, tenant, rank, deadline_ms, job, due_ms, attempt, tokens from back
