-- Ids of repetitions; a few that are older than $4 go, since nobody asks for them any more.
with old as materialized (
    select ctid as at from infermq.repeated where id < $4 order by id limit 100 for update skip locked
), gone as (
    delete from infermq.repeated where ctid = any(array(select at from old))
)
insert into infermq.repeated (id, tenant, job)
select * from unnest($1::uuid[], $2::text[], $3::uuid[]) as r(id, tenant, job) order by id
on conflict do nothing
