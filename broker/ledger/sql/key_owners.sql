-- The job that each key stands for, in the order asked.
select i.job
  from unnest($1::text[], $2::text[]) with ordinality as k(tenant, key, place)
  join infermq.idempotency i on i.tenant = k.tenant and i.key = k.key
 order by k.place
