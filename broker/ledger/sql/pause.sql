insert into infermq.pauses (kind, name, paused_ms, tenant, key, reason) values ($1, $2, $3, $4, $5, $6)
on conflict do nothing
returning kind
