-- No row: there is no such tenant.
insert into infermq.api_keys
       (id, tenant, role, hash, models, endpoints, lanes, deployments, created_ms, made_by, expires_ms, label, replaces)
select $1, t.name, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13
  from infermq.tenants t where t.name = $2
returning id
