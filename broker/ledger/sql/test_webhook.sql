insert into infermq.deliveries (id, tenant, webhook, event, type, data, made_ms, next_ms)
values ($1, $2, $3, $4, $5, $6, $7, $7)
