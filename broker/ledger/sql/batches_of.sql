select id, tenant, lane, deadline_ms, sealed_ms is not null as sealed from infermq.batches where id = any($1::uuid[])
