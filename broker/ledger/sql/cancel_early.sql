insert into infermq.early_cancels (job, tenant, made_ms)
select job, $2, $3 from unnest($1::uuid[]) as p(job) order by job
on conflict do nothing
