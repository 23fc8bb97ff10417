-- Keys that were not used yet become these jobs'.
insert into infermq.idempotency (tenant, key, job)
select * from unnest($1::text[], $2::text[], $3::uuid[]) as used(tenant, key, job) order by tenant, key
on conflict do nothing
