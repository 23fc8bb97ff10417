-- delayed → waiting, for up to $2 jobs whose time has come by $1, or their deadline. What another transaction is moving
-- or ending is left to it.
with due as materialized (
    select ctid as at from infermq.delayed
     where least(not_before_ms, deadline_ms) <= $1
     order by least(not_before_ms, deadline_ms) limit $2
       for update skip locked
), moved as (
    delete from infermq.delayed where ctid = any(array(select at from due)) returning *
)
insert into infermq.waiting (model, lane, tenant, rank, deadline_ms, job, attempt, uncounted, tried, batch, tokens)
select model, lane, tenant, rank, deadline_ms, job, attempt, uncounted, tried, batch, tokens from moved
returning model, lane, tenant, rank, deadline_ms, job
