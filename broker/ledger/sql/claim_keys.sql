-- Keys that were not used yet become these jobs'.
insert into infermq.idempotency (tenant, key, job)
select * from unnest($1::text[], $2::text[], $3::uuid[])
on conflict do nothing
