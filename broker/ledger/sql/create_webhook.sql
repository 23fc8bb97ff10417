-- Unless the tenant has as many as it may have ($9), or there is no such tenant. Two that are made at once wait for each
-- other by the lock on the tenant.
with held as materialized (
    select name from infermq.tenants where name = $2 for no key update
)
insert into infermq.webhooks (id, tenant, url, events, label, secret, created_ms, made_by)
select $1, held.name, $3, $4, $5, $6, $7, $8
  from held
 where (select count(*) from infermq.webhooks where tenant = $2) < $9
returning *
