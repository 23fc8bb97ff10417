-- Who is told of the end of a batch is told of that of its retries.
insert into infermq.batches (id, tenant, lane, created_ms, deadline_ms, metadata, retry_of, root, took, is_replay, webhook)
values ($1, $2, $3, $4, $5, $6, $7, $8, '{}', $9, (select webhook from infermq.batches where id = $7))
on conflict (id) do nothing
returning id
