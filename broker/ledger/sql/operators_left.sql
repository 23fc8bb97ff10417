-- Whether any operator could still come in at $1 without the key $2, and without the keys of tenant $3.
select exists (
  select from infermq.api_keys k join infermq.tenants t on t.name = k.tenant
   where k.role = 'operator' and k.revoked_ms is null and (k.expires_ms is null or k.expires_ms > $1)
     and t.disabled_ms is null and k.id is distinct from $2 and k.tenant is distinct from $3)
