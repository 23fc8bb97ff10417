-- waiting → delayed, for up to $3 jobs of a paused batch whose deadline comes after $2; their own time $4 never comes. What
-- another transaction holds is left to it, so nothing is waited for here.
with page as materialized (
    select ctid as at from infermq.waiting
     where batch = $1 and deadline_ms > $2 and exists (select from infermq.pauses where kind = 'batch' and name = $1::text)
     limit $3
       for update skip locked
), moved as (
    delete from infermq.waiting where ctid = any(array(select at from page)) returning *
), parked as (
    insert into infermq.delayed (job, not_before_ms, model, lane, tenant, rank, deadline_ms, attempt, uncounted, tried,
        batch, tokens, is_parked)
    select job, $4, model, lane, tenant, rank, deadline_ms, attempt, uncounted, tried, batch, tokens, true from moved
    returning job
)
select count(*) from parked
