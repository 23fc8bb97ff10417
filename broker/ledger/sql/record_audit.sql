insert into infermq.audit (id, at_ms, tenant, key, action, target, before, after) values ($1, $2, $3, $4, $5, $6, $7, $8)
