-- delayed → waiting, for up to $1 jobs that were parked and whose batch is paused no more.
with free as materialized (
    select ctid as at from infermq.delayed d
     where is_parked and not exists (select from infermq.pauses where kind = 'batch' and name = d.batch::text)
     limit $1
       for update skip locked
), moved as (
    delete from infermq.delayed where ctid = any(array(select at from free)) returning *
)
insert into infermq.waiting (model, lane, tenant, rank, deadline_ms, job, attempt, uncounted, tried, batch, tokens)
select model, lane, tenant, rank, deadline_ms, job, attempt, uncounted, tried, batch, tokens from moved
returning model, lane, tenant, rank, deadline_ms, job
