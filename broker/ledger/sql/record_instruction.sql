insert into infermq.instructions (id, kind, tenant, key, made_ms, what, next_ms) values ($1, $2, $3, $4, $5, $6, $7)
on conflict (id) do nothing
returning id
