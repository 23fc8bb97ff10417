select t.name, t.created_ms, t.made_by, t.label, t.disabled_ms,
       (select count(*) from infermq.api_keys k
         where k.tenant = t.name and k.revoked_ms is null and (k.expires_ms is null or k.expires_ms > $1)) as keys
  from infermq.tenants t
 where $2::text is null or t.name > $2
 order by t.name limit $3
