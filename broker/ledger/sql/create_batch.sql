insert into infermq.batches (id, tenant, lane, created_ms, deadline_ms, metadata)
values ($1, $2, $3, $4, $5, $6)
on conflict (id) do nothing
