-- running → queued, for those that run this very attempt.
with verdict as (
    select * from unnest($1::uuid[], $2::int[], $3::bigint[], $4::int[]) as v(job, attempt, not_before_ms, uncounted)
), gone as (
    delete from infermq.running r using verdict v where r.job = v.job and r.attempt = v.attempt
    returning v.job, v.attempt, v.not_before_ms, r.uncounted + v.uncounted as uncounted
)
insert into infermq.waiting (model, lane, tenant, deadline_ms, job, attempt, uncounted, not_before_ms)
select j.model, j.lane, j.tenant, j.deadline_ms, j.id, g.attempt, g.uncounted, g.not_before_ms
  from gone g join infermq.jobs j on j.id = g.job
returning model, lane, tenant, deadline_ms, job, not_before_ms
