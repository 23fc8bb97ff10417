-- What makes a known job the same job.
select id, tenant, body_hash, admitted_ms from infermq.jobs where id = any($1::uuid[])
