insert into infermq.batches (id, tenant, lane, created_ms, deadline_ms, metadata, priority)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (id) do nothing
