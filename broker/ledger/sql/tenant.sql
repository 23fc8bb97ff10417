-- A tenant, with how many keys it has that have not ended at $2.
select t.name, t.created_ms, t.made_by, t.label, t.disabled_ms,
       (select count(*) from infermq.api_keys k
         where k.tenant = t.name and k.revoked_ms is null and (k.expires_ms is null or k.expires_ms > $2)) as keys
  from infermq.tenants t
 where t.name = $1
