insert into infermq.batches (id, tenant, lane, created_ms, deadline_ms, metadata, retry_of, root, took, is_replay)
values ($1, $2, $3, $4, $5, $6, $7, $8, '{}', $9)
on conflict (id) do nothing
returning id
