-- Keys of these jobs, which are gone, are nobody's.
delete from infermq.idempotency i
 using unnest($1::text[], $2::text[], $3::uuid[]) as k(tenant, key, job)
 where i.tenant = k.tenant and i.key = k.key and i.job = k.job
