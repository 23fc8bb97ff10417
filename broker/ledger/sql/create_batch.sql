insert into infermq.batches (id, tenant, lane, created_ms, deadline_ms, metadata, priority, webhook, of_file)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (id) do nothing
