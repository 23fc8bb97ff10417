-- What makes a known job the same job; of the same key, also its model.
select id, tenant, model, body_hash, admitted_ms from infermq.jobs where id = any($1::uuid[])
